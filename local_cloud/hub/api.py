"""The JSON routes under ``/api``."""

from functools import partial
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from local_cloud.hub.cards import check_card
from local_cloud.hub.commits import check_path, parse_change
from local_cloud.hub.describe import (
    add_last_commits,
    describe_commit,
    describe_file,
    describe_folder,
    describe_repository,
    list_tree,
)
from local_cloud.hub.refusal import RefusedError
from local_cloud.hub.repositories import DEFAULT_BRANCH, KINDS, USER, Kind, Repository
from local_cloud.hub.web import Call, endpoint, log

#: From this size on a file goes through LFS, as on the Hub. There most binary files do so whatever their size; here
#: only the shards of datasets do, whose client relies on it, so that small uploads work with hf_xet installed too.
LFS_THRESHOLD = 10 * 1024 * 1024
LFS_SUFFIXES = (".parquet", ".arrow")
XET_ADVICE = (
    "this Hub has no Xet storage: to upload Parquet files and files of 10 MiB and more, set HF_HUB_DISABLE_XET=1 "
    "before Python starts, and the client takes LFS instead"
)
_TYPES: dict[str | None, Kind] = {None: "models", "model": "models", "dataset": "datasets"}


def whoami(call: Call) -> Response:
    """Say who the token's owner is: the local user, whatever the token."""
    if not call.has_token:
        raise RefusedError(401, "Invalid username or password.")
    token = {"displayName": "any token", "role": "write"}
    return JSONResponse(
        {
            "type": "user",
            "id": USER,
            "name": USER,
            "fullname": "The local user",
            "isPro": False,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def validate_yaml(call: Call) -> Response:
    """Check a card's metadata before it is pushed."""
    content = call.json().get("content")
    if not isinstance(content, str):
        raise RefusedError(400, "the card to check is missing")
    errors, warnings = check_card(content)
    if errors and call.request.headers.get("accept") == "text/plain":
        return PlainTextResponse("\n".join(errors), status_code=400)
    answer = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
    return JSONResponse(answer, status_code=400 if errors else 200)


# -- repositories --------------------------------------------------------------------------------------------------


def _kind_and_id(values: dict[str, Any]) -> tuple[Kind, str]:
    if values.get("type") not in _TYPES:
        raise RefusedError(400, f"this Hub keeps models and datasets, not repositories of type {values.get('type')!r}")
    owner, name = values.get("organization"), values.get("name")
    if not isinstance(name, str) or not isinstance(owner, str | None):
        raise RefusedError(400, "name must be a text, and organization a text or left out")
    return _TYPES[values.get("type")], f"{owner}/{name}" if owner else name


def _wants_private(values: dict[str, Any]) -> bool | None:
    visibility = values.get("visibility")
    if visibility not in (None, "private", "public"):
        raise RefusedError(400, f"visibility is private or public, not {visibility!r}")
    if visibility is not None:
        return bool(visibility == "private")
    private = values.get("private")
    return private if isinstance(private, bool) else None


def create_repo(call: Call) -> Response:
    """Make a repository; 409 if it is there, with its address all the same."""
    call.need_token()
    values = call.json()
    kind, repo_id = _kind_and_id(values)
    repo, new = call.repositories.create(kind, repo_id, private=bool(_wants_private(values)))
    answer = {"url": f"{call.base}/{repo.path}", "name": repo.id, "id": repo.id}
    if not new:
        answer["error"] = f"You already created this {kind[:-1]} repo: {repo.id}"
    return JSONResponse(answer, status_code=200 if new else 409)


def delete_repo(call: Call) -> Response:
    """Remove a repository."""
    call.need_token()
    call.repositories.delete(_named_repository(call, *_kind_and_id(call.json())))
    return PlainTextResponse("OK")


def move_repo(call: Call) -> Response:
    """Give a repository another id."""
    call.need_token()
    values = call.json()
    kind = _kind_and_id({"type": values.get("type"), "name": ""})[0]
    call.repositories.move(_named_repository(call, kind, str(values.get("fromRepo"))), str(values.get("toRepo")))
    return PlainTextResponse("OK")


def _named_repository(call: Call, kind: Kind, repo_id: str) -> Repository:
    repo = call.repositories.find(kind, repo_id)
    if repo is None:
        raise RefusedError(404, f"there is no repository {repo_id!r} among the {kind}", "RepoNotFound")
    return repo


def list_repos(kind: Kind, call: Call) -> Response:
    """List repositories, newest first; the private ones for a caller with a token."""
    query = call.request.query_params
    expand, full = query.getlist("expand"), call.flag("full")
    found = []
    for repo in call.repositories.all(kind):
        if repo.private and not call.has_token:
            continue
        if (
            query.get("search", "").lower() not in repo.id.lower()
            or query.get("author", repo.id.split("/")[0]) != repo.id.split("/")[0]
        ):
            continue
        commit = call.repositories.commit(repo, call.repositories.resolve(repo, DEFAULT_BRANCH))
        info = describe_repository(
            call.repositories, repo, commit, siblings=full or "siblings" in expand, expand=expand
        )
        wanted = query.getlist("filter")
        if wanted and not set(wanted) <= set(
            describe_repository(call.repositories, repo, commit, siblings=False)["tags"]
        ):
            continue
        found.append((commit.date, info))
    found.sort(key=lambda pair: pair[0], reverse=True)
    limit = query.get("limit", "")
    return JSONResponse([info for _, info in found][: int(limit) if limit.isdigit() else None])


def repo_info(kind: Kind, call: Call) -> Response:
    """Describe a repository at a revision."""
    repo = call.repository(kind)
    revision = call.param("rev") if "rev" in call.request.path_params else DEFAULT_BRANCH
    commit = call.repositories.commit(repo, call.repositories.resolve(repo, revision))
    expand = call.request.query_params.getlist("expand")
    return JSONResponse(describe_repository(call.repositories, repo, commit, blobs=call.flag("blobs"), expand=expand))


def auth_check(kind: Kind, call: Call) -> Response:
    """Say whether the caller may read (or write) the repository."""
    call.repository(kind, write=call.request.url.path.endswith("/write"))
    return PlainTextResponse("OK")


def repo_settings(kind: Kind, call: Call) -> Response:
    """Make a repository private or public."""
    repo = call.repository(kind, write=True)
    values = call.json()
    if values.get("gated"):
        raise RefusedError(501, "this Hub has no gated repositories")
    private = _wants_private(values)
    if private is not None:
        call.repositories.set_private(repo, private)
    return JSONResponse({"private": repo.private if private is None else private})


# -- files ---------------------------------------------------------------------------------------------------------


def tree(kind: Kind, call: Call) -> Response:
    """List a folder at a revision."""
    repo = call.repository(kind)
    commit = call.repositories.commit(repo, call.repositories.resolve(repo, call.param("rev")))
    folder = call.param("path").strip("/") if "path" in call.request.path_params else ""
    items = list_tree(commit.files, folder, recursive=call.flag("recursive"))
    if folder and not items:
        raise RefusedError(404, f"{repo.id} has no folder {folder!r} at this revision", "EntryNotFound", commit.id)
    if call.flag("expand"):
        add_last_commits(call.repositories, repo, commit, items)
    return JSONResponse(items)


def paths_info(kind: Kind, call: Call) -> Response:
    """Describe the paths that are named in a form; those that are not there are left out."""
    repo = call.repository(kind)
    commit = call.repositories.commit(repo, call.repositories.resolve(repo, call.param("rev")))
    if call.request.headers.get("content-type", "").startswith("application/json"):
        values = call.json()
        paths, expand = values.get("paths", []), bool(values.get("expand"))
    else:
        form = parse_qs(call.body.decode("utf-8", errors="replace"))
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() in {"1", "true"}
    items = []
    for path in dict.fromkeys(str(path).strip("/") for path in paths):
        if path in commit.files:
            items.append(describe_file(path, commit.files[path]))
        elif any(name.startswith(f"{path}/") for name in commit.files):
            items.append(describe_folder(path, commit.files))
    if expand:
        add_last_commits(call.repositories, repo, commit, items)
    return JSONResponse(items)


def preupload(kind: Kind, call: Call) -> Response:
    """Say of each file that is to be committed how its bytes should come, and what is there now."""
    repo = call.repository(kind, write=True)
    _refuse_pull_requests(call)
    commit = call.repositories.commit(repo, call.repositories.resolve(repo, call.param("rev")))
    answer = []
    files = call.json().get("files")
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        raise RefusedError(400, "files must be a list of objects")
    for file in files:
        path = check_path(file.get("path"))
        size = file.get("size")
        if not isinstance(size, int):
            raise RefusedError(400, f"{path}: its size is missing")
        there = commit.files.get(path)
        answer.append(
            {
                "path": path,
                "uploadMode": "lfs" if size >= LFS_THRESHOLD or path.endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
                "oid": there.etag if there else None,
            }
        )
    return JSONResponse({"files": answer})


def commit(kind: Kind, call: Call) -> Response:
    """Put a commit on a branch."""
    repo = call.repository(kind, write=True)
    _refuse_pull_requests(call)
    made = call.repositories.apply(repo, call.param("rev"), parse_change(call.body))
    return JSONResponse(
        {
            "success": True,
            "commitUrl": f"{call.base}/{repo.path}/commit/{made.id}",
            "commitOid": made.id,
            "hookOutput": "",
            "pullRequestUrl": None,
        }
    )


def _refuse_pull_requests(call: Call) -> None:
    if call.flag("create_pr"):
        raise RefusedError(501, "this Hub has no pull requests; commit to a branch instead")


def no_xet(kind: Kind, call: Call) -> Response:
    """Say why an upload through Xet cannot work here."""
    call.repository(kind, write=True)
    log.warning("an upload was refused: %s", XET_ADVICE)  # hf_xet shows the status alone
    raise RefusedError(501, XET_ADVICE)


# -- history -------------------------------------------------------------------------------------------------------


def commits(kind: Kind, call: Call) -> Response:
    """List the commits of a revision, newest first."""
    repo = call.repository(kind)
    start = call.repositories.resolve(repo, call.param("rev"))
    items = [describe_commit(item) for item in call.repositories.history(repo, start)]
    if "formatted" in call.request.query_params.getlist("expand[]"):
        items = [item | {"formatted": {"title": item["title"], "message": item["message"]}} for item in items]
    return JSONResponse(items, headers={"X-Total-Count": str(len(items))})


def squash(kind: Kind, call: Call) -> Response:
    """Replace a branch's history with one commit."""
    repo = call.repository(kind, write=True)
    message = call.json().get("message") or f"Super-squash branch '{call.param('rev')}'"
    call.repositories.squash(repo, call.param("rev"), str(message))
    return PlainTextResponse("OK")


def refs(kind: Kind, call: Call) -> Response:
    """List branches and tags."""
    repo = call.repository(kind)
    branches, tags = (
        [
            {"name": name, "ref": f"refs/{group}/{name}", "targetCommit": target}
            for name, target in call.repositories.refs(repo, group).items()
        ]
        for group in ("heads", "tags")
    )
    return JSONResponse({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def add_branch(kind: Kind, call: Call) -> Response:
    """Create a branch."""
    repo = call.repository(kind, write=True)
    start = call.json().get("startingPoint") or DEFAULT_BRANCH
    call.repositories.add_ref(repo, "heads", call.param("rev"), call.repositories.resolve(repo, str(start)))
    return PlainTextResponse("OK")


def remove_branch(kind: Kind, call: Call) -> Response:
    """Delete a branch."""
    call.repositories.remove_ref(call.repository(kind, write=True), "heads", call.param("rev"))
    return PlainTextResponse("OK")


def add_tag(kind: Kind, call: Call) -> Response:
    """Tag a revision."""
    repo = call.repository(kind, write=True)
    target = call.repositories.resolve(repo, call.param("rev"))
    call.repositories.add_ref(repo, "tags", str(call.json().get("tag") or ""), target)
    return PlainTextResponse("OK")


def remove_tag(kind: Kind, call: Call) -> Response:
    """Delete a tag."""
    call.repositories.remove_ref(call.repository(kind, write=True), "tags", call.param("rev"))
    return PlainTextResponse("OK")


def not_here(call: Call) -> Response:
    """Answer for the parts of the Hub's API that this one lacks."""
    raise RefusedError(404, f"{call.request.method} {call.request.url.path} is not a route of the embedded Hub")


def routes() -> list[Route]:
    """Return the routes under ``/api``; of two that match, the first counts."""
    found = [
        Route("/api/whoami-v2", endpoint(whoami)),
        Route("/api/validate-yaml", endpoint(validate_yaml), methods=["POST"]),
        Route("/api/repos/create", endpoint(create_repo), methods=["POST"]),
        Route("/api/repos/delete", endpoint(delete_repo), methods=["DELETE"]),
        Route("/api/repos/move", endpoint(move_repo), methods=["POST"]),
    ]
    for kind in KINDS:
        here = f"/api/{kind}/{{repo:repo}}"
        found += [
            Route(f"/api/{kind}", endpoint(partial(list_repos, kind))),
            Route(f"{here}/revision/{{rev}}", endpoint(partial(repo_info, kind))),
            Route(f"{here}/preupload/{{rev}}", endpoint(partial(preupload, kind)), methods=["POST"]),
            Route(f"{here}/commit/{{rev}}", endpoint(partial(commit, kind)), methods=["POST"]),
            Route(f"{here}/tree/{{rev}}", endpoint(partial(tree, kind))),
            Route(f"{here}/tree/{{rev}}/{{path:path}}", endpoint(partial(tree, kind))),
            Route(f"{here}/paths-info/{{rev}}", endpoint(partial(paths_info, kind)), methods=["POST"]),
            Route(f"{here}/commits/{{rev}}", endpoint(partial(commits, kind))),
            Route(f"{here}/super-squash/{{rev}}", endpoint(partial(squash, kind)), methods=["POST"]),
            Route(f"{here}/branch/{{rev}}", endpoint(partial(add_branch, kind)), methods=["POST"]),
            Route(f"{here}/branch/{{rev}}", endpoint(partial(remove_branch, kind)), methods=["DELETE"]),
            Route(f"{here}/tag/{{rev}}", endpoint(partial(add_tag, kind)), methods=["POST"]),
            Route(f"{here}/tag/{{rev}}", endpoint(partial(remove_tag, kind)), methods=["DELETE"]),
            Route(f"{here}/xet-write-token/{{rev}}", endpoint(partial(no_xet, kind))),
            Route(f"{here}/auth-check", endpoint(partial(auth_check, kind))),
            Route(f"{here}/auth-check/write", endpoint(partial(auth_check, kind))),
            Route(f"{here}/settings", endpoint(partial(repo_settings, kind)), methods=["PUT"]),
            Route(f"{here}/refs", endpoint(partial(refs, kind))),
            Route(here, endpoint(partial(repo_info, kind))),
        ]
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return [*found, Route("/api/{path:path}", endpoint(not_here), methods=methods)]

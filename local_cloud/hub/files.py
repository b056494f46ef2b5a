"""The routes that carry bytes: LFS uploads and downloads."""

import hashlib
import hmac
import re
import secrets
from functools import partial
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from local_cloud.hub.commits import SHA256
from local_cloud.hub.refusal import RefusedError
from local_cloud.hub.repositories import KINDS, Kind
from local_cloud.hub.web import Call, endpoint, log, refused

#: Upload addresses carry a signature, because clients send no token to them (on the real Hub they are S3's).
_SIGNING_KEY = secrets.token_bytes(32)
_LFS_JSON = "application/vnd.git-lfs+json"
_TEXT_NAME = re.compile(r"\.(?:md|txt|json|jsonl|csv|tsv|yaml|yml|py|html?|xml|svg|js|css)$", re.IGNORECASE)


def _signature(sha256: str, size: int) -> str:
    return hmac.new(_SIGNING_KEY, f"{sha256} {size}".encode(), hashlib.sha256).hexdigest()


def lfs_batch(kind: Kind, call: Call) -> Response:
    """Say for each large file where to put it, or that it is there already."""
    call.repository(kind, write=True)
    values = call.json()
    if values.get("operation") != "upload":
        raise RefusedError(501, "this Hub serves downloads from /resolve/, not through the LFS batch")
    answer = []
    for item in values.get("objects") or []:
        sha256, size = (item.get("oid"), item.get("size")) if isinstance(item, dict) else (None, None)
        if not isinstance(sha256, str) or not SHA256.fullmatch(sha256) or not isinstance(size, int) or size < 0:
            raise RefusedError(422, "every object needs an oid (sha256) and a size")
        entry: dict[str, object] = {"oid": sha256, "size": size}
        if call.repositories.blobs.size(sha256) != size:
            signed = f"{call.base}/_lfs/{sha256}?size={size}&signature={_signature(sha256, size)}"
            verify = f"{call.base}/_lfs/{sha256}/verify"
            entry["actions"] = {"upload": {"href": signed}, "verify": {"href": verify}}
        answer.append(entry)
    return JSONResponse({"transfer": "basic", "objects": answer}, media_type=_LFS_JSON)


async def lfs_upload(request: Request) -> Response:
    """Take a large file: to the disk as it comes, kept only if its sha256 and size are the announced ones."""
    sha256 = request.path_params["sha256"]
    size_text = request.query_params.get("size", "")
    size = int(size_text) if size_text.isdigit() else -1
    try:
        if not hmac.compare_digest(_signature(sha256, size), request.query_params.get("signature", "")):
            raise RefusedError(
                403, "this upload address is not signed by this Hub, or the Hub has restarted since: ask again"
            )
        with request.app.state.repositories.blobs.receive() as upload:
            async for chunk in request.stream():
                upload.write(chunk)
                if upload.size > size:
                    raise RefusedError(400, f"more than the announced {size} bytes were uploaded")
            await run_in_threadpool(upload.finish, sha256, size)
    except RefusedError as refusal:
        return refused(refusal)
    except ClientDisconnect:
        return refused(RefusedError(400, "the upload ended before its last byte"))
    except OSError as error:
        log.exception("an upload could not be written")
        return refused(RefusedError(507, f"the Hub could not write the upload: {error.strerror}"))
    return PlainTextResponse("OK")


def lfs_verify(call: Call) -> Response:
    """Confirm that a large file has arrived."""
    call.need_token()
    sha256, size = call.param("sha256"), call.json().get("size")
    if call.repositories.blobs.size(sha256) != size:
        raise RefusedError(404, f"the file with sha256 {sha256} and {size} bytes has not arrived")
    return PlainTextResponse("OK")


def resolve(kind: Kind, call: Call) -> Response:
    """Serve a file at a revision, whole or in part, with the headers by which clients cache it."""
    repo = call.repository(kind)
    commit_id = call.repositories.resolve(repo, call.param("rev"))
    path = call.param("path")
    entry = call.repositories.commit(repo, commit_id).files.get(path)
    if entry is None:
        raise RefusedError(404, f"{repo.id} has no file {path!r} at this revision", "EntryNotFound", commit_id)
    headers = {
        "ETag": f'"{entry.etag}"',
        "X-Repo-Commit": commit_id,
        "X-Linked-Size": str(entry.size),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(path.split('/')[-1], safe='')}",
    }
    if entry.lfs:
        headers["X-Linked-ETag"] = f'"{entry.sha256}"'
    if call.request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    media_type = "text/plain; charset=utf-8" if _TEXT_NAME.search(path) else "application/octet-stream"
    return FileResponse(call.repositories.blobs.path(entry.sha256), headers=headers, media_type=media_type)


def routes() -> list[Route]:
    """Return the routes of uploads and downloads; datasets first, or they would look like models of that owner."""
    found = [
        Route("/_lfs/{sha256}", lfs_upload, methods=["PUT"]),
        Route("/_lfs/{sha256}/verify", endpoint(lfs_verify), methods=["POST"]),
    ]
    for kind in reversed(KINDS):
        here = "/{repo:repo}" if kind == "models" else "/datasets/{repo:repo}"
        batch = endpoint(partial(lfs_batch, kind))
        found += [
            Route(f"{here}.git/info/lfs/objects/batch", batch, methods=["POST"]),
            Route(f"{here}/resolve/{{rev}}/{{path:path}}", endpoint(partial(resolve, kind))),
        ]
    return found

"""What a person sees who opens the Hub's address in a browser: the repositories, their files, cards and commits."""

from functools import partial
from html import escape
from urllib.parse import quote

from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from local_cloud.hub.cards import split_card
from local_cloud.hub.commits import Commit
from local_cloud.hub.describe import card_text
from local_cloud.hub.refusal import RefusedError
from local_cloud.hub.repositories import DEFAULT_BRANCH, KINDS, Kind, Repository
from local_cloud.hub.web import Call, Handler, endpoint

MAX_SHOWN = 256 * 1024
_STYLE = """
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } caption { text-align: left; font-weight: 600; padding: .5rem 0 }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8886; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #8886; padding: 1rem }
code { overflow-wrap: anywhere } .skip { position: absolute; left: -999px } .skip:focus { position: static }
"""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def _page(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        '<a class="skip" href="#content">Skip to the content</a>'
        '<nav aria-label="Site"><a href="/">Embedded Hub</a></nav>'
        f'<main id="content"><h1>{escape(title)}</h1>{body}</main></body></html>',
        status_code=status,
        headers=_HEADERS,
    )


def _table(caption: str, columns: list[str], rows: list[list[str]], numbers: frozenset[int] = frozenset()) -> str:
    """Return a table; the cells are HTML already."""

    def cells(tag: str, values: list[str]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        kinds = [' class="number"' if at in numbers else "" for at in range(len(values))]
        return "".join(f"<{tag}{scope}{kind}>{value}</{tag}>" for value, kind in zip(values, kinds, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<thead><tr>{cells('th', [escape(column) for column in columns])}</tr></thead>"
    return f"<table><caption>{escape(caption)}</caption>{head}<tbody>{body}</tbody></table>"


def _link(target: str, text: str) -> str:
    return f'<a href="{escape(target)}">{escape(text)}</a>'


def _size(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "B" else f"{size} B"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.3g} GB"


def front_page(call: Call) -> Response:
    """List every repository, models first."""
    body = ""
    for kind in KINDS:
        rows = []
        for repo in call.repositories.all(kind):
            head = call.repositories.commit(repo, call.repositories.resolve(repo, DEFAULT_BRANCH))
            rows.append(
                [
                    _link(f"/{repo.path}", repo.id),
                    "private" if repo.private else "public",
                    str(len(head.files)),
                    head.date,
                ]
            )
        if rows:
            body += _table(
                kind.capitalize(), ["Repository", "Visibility", "Files", "Last commit"], rows, frozenset({2})
            )
        else:
            body += f"<p>No {kind} yet.</p>"
    hint = f"HF_ENDPOINT={call.base}"
    return _page("Embedded Hub", f"{body}<p>The official clients use this Hub with <code>{escape(hint)}</code>.</p>")


def repository_page(kind: Kind, call: Call) -> Response:
    """Show a repository's files, card and commits at a revision."""
    repo = call.repository(kind, browser=True)
    revision = call.param("rev") if "rev" in call.request.path_params else DEFAULT_BRANCH
    commit = call.repositories.commit(repo, call.repositories.resolve(repo, revision))
    here = f"/{repo.path}"
    files = [
        [_link(f"{here}/blob/{commit.id}/{quote(path)}", path), _size(entry.size), "LFS" if entry.lfs else ""]
        for path, entry in commit.files.items()
    ]
    refs = ", ".join(
        _link(f"{here}/tree/{quote(name, safe='')}", f"{word} {name}")
        for word, group in (("branch", "heads"), ("tag", "tags"))
        for name in call.repositories.refs(repo, group)  # type: ignore[arg-type]
    )
    _, card = split_card(card_text(call.repositories, commit))
    visibility = "Private" if repo.private else "Public"
    body = f"<p>{visibility} {kind[:-1]}, revision <code>{escape(commit.id)}</code>. {refs}.</p>"
    if card.strip():
        body += f"<h2>Card</h2><pre>{escape(card.strip())}</pre>"
    body += _table("Files", ["Path", "Size", "Kept in"], files, frozenset({1})) if files else "<p>No files yet.</p>"
    return _page(repo.id, body + _history(call, repo, commit))


def _history(call: Call, repo: Repository, commit: Commit) -> str:
    rows = [
        [_link(f"/{repo.path}/commit/{item.id}", item.id[:12]), escape(item.title), item.date]
        for item in call.repositories.history(repo, commit.id)
    ]
    return _table("Commits", ["Commit", "Title", "Date"], rows)


def file_page(kind: Kind, call: Call) -> Response:
    """Show a text file, or say how large a binary one is."""
    repo = call.repository(kind, browser=True)
    commit = call.repositories.commit(repo, call.repositories.resolve(repo, call.param("rev")))
    path = call.param("path")
    entry = commit.files.get(path)
    if entry is None:
        raise RefusedError(404, f"{repo.id} has no file {path!r} at this revision", "EntryNotFound", commit.id)
    body = f"<p>{_link(f'/{repo.path}', repo.id)}, {_size(entry.size)}, sha256 <code>{entry.sha256}</code></p>"
    with call.repositories.blobs.path(entry.sha256).open("rb") as stream:
        start = stream.read(MAX_SHOWN)
    if b"\0" in start:
        body += "<p>This file is not text.</p>"
    else:
        rest = "" if entry.size <= MAX_SHOWN else f"<p>The first {_size(MAX_SHOWN)} are shown.</p>"
        body += f"<pre>{escape(start.decode('utf-8', errors='replace'))}</pre>{rest}"
    return _page(path, body)


def icon(call: Call) -> Response:
    """Spare browsers a page of error for the icon that they ask for unasked."""
    return Response(status_code=204)


def without_slash(call: Call) -> Response:
    """Send ``/owner/name/`` to ``/owner/name``."""
    return RedirectResponse("/" + call.request.url.path.strip("/"))


def _for_people(handler: Handler) -> Handler:
    """Give a browser an error page instead of JSON; other callers keep the JSON."""

    def answer(call: Call) -> Response:
        try:
            return handler(call)
        except RefusedError as refusal:
            if "text/html" not in call.request.headers.get("accept", ""):
                raise
            status = 404 if refusal.code else refusal.status
            return _page("Not found" if status == 404 else "Error", f"<p>{escape(refusal.message)}</p>", status)

    return answer


def routes() -> list[Route]:
    """Return the routes of the pages; datasets first, or they would look like models of that owner."""
    found = [Route("/", endpoint(front_page)), Route("/favicon.ico", endpoint(icon))]
    for kind in reversed(KINDS):
        here = "/{repo:repo}" if kind == "models" else "/datasets/{repo:repo}"
        page = endpoint(_for_people(partial(repository_page, kind)))
        found += [
            Route(f"{here}/tree/{{rev}}", page),
            Route(f"{here}/commit/{{rev}}", page),
            Route(f"{here}/blob/{{rev}}/{{path:path}}", endpoint(_for_people(partial(file_page, kind)))),
            Route(here, page),
            Route(f"{here}/", endpoint(without_slash)),
        ]
    return found

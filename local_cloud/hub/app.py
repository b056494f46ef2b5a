"""The embedded Hub as one ASGI application."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_cloud.hub import api, files, pages
from local_cloud.hub.repositories import Repositories
from local_cloud.hub.web import UndecodedPath

#: Pages from elsewhere cannot reach the Hub under a name of theirs that points at this machine.
LOOPBACK_NAMES = ["127.0.0.1", "localhost", "*.localhost", "[::1]", "::1"]


async def health(request: Request) -> Response:
    """Say that the Hub is up."""
    return JSONResponse({"status": "ok"})


def make_app(repositories: Repositories, *, host: str = "127.0.0.1") -> Starlette:
    """Return the application for a state folder that is open.

    Parameters
    ----------
    host
        The address that it will listen on; on a loopback address only loopback names are answered.
    """
    loopback = host in LOOPBACK_NAMES
    app = Starlette(
        routes=[Route("/_askline/health", health), *api.routes(), *files.routes(), *pages.routes()],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_NAMES if loopback else ["*"], www_redirect=False),
            Middleware(UndecodedPath),
        ],
    )
    app.router.redirect_slashes = False
    app.state.repositories = repositories
    return app

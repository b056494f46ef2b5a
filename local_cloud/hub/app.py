"""The embedded Hub as one ASGI application."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_cloud.guard import Guard, Refusal, Scope, same
from local_cloud.hub import api, files, pages
from local_cloud.hub.repositories import Repositories
from local_cloud.hub.web import UndecodedPath, given_token

_HEALTH = "/_askline/health"


async def health(request: Request) -> Response:
    """Say that the Hub is up."""
    return JSONResponse({"status": "ok"})


def make_app(repositories: Repositories, *, token: str | None = None) -> Starlette:
    """Return the application for a state folder that is open.

    Parameters
    ----------
    token
        What every caller must know. Without one anybody may read, and any token may write.
    """

    def check_key(headers: dict[str, str], scope: Scope) -> None:
        if token is None or scope.get("path") == _HEALTH:
            return
        if not same(given_token(headers.get("authorization", "")), token):
            message = "Invalid username or password. This Hub wants the token that python -m local_cloud env prints."
            # A browser asks the person for it: any user name, and the token as the password.
            raise Refusal(401, message, www_authenticate='Basic realm="askline Hub"', x_error_message=message)

    app = Starlette(
        routes=[Route(_HEALTH, health), *api.routes(), *files.routes(), *pages.routes()],
        middleware=[
            Middleware(Guard, check_key),
            Middleware(UndecodedPath),
        ],
    )
    app.router.redirect_slashes = False
    app.state.repositories = repositories
    return app

"""The routes, and every error in OpenAI's shape."""

import re
from collections.abc import Awaitable, Callable

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.auth import Authenticator
from gateway.chat import ChatCompletions, Limits, OpenTurns
from gateway.core.errors import ApiError, model_not_found, refused
from gateway.core.ports import Conversations, Orchestrator
from gateway.core.render import model_object
from gateway.core.request import is_team_name
from gateway.http import error_response, json_response
from gateway.stored import stored_routes
from servicekit import context
from servicekit.errors import NotFound, ServiceError

log = structlog.get_logger()

Handler = Callable[[Request], Awaitable[Response]]


def build_app(
    *,
    orchestrator: Orchestrator,
    conversations: Conversations,
    auth: Authenticator,
    limits: Limits,
    turns: OpenTurns,
) -> Starlette:
    """The application; it owns nothing that needs closing."""

    async def list_models(request: Request) -> Response:
        with context.scope(caller=auth.caller(request.headers)):
            teams = await orchestrator.teams()
        return json_response({"object": "list", "data": [model_object(team) for team in teams]})

    async def get_model(request: Request) -> Response:
        name = request.path_params["model"]
        with context.scope(caller=auth.caller(request.headers)):
            if not is_team_name(name):
                raise model_not_found(name)
            try:
                return json_response(model_object(await orchestrator.team(name)))
            except NotFound as error:
                raise model_not_found(name) from error

    async def healthz(_: Request) -> Response:
        return json_response({"status": "ok"})

    async def readyz(_: Request) -> Response:
        if turns.draining:
            return json_response({"status": "stopping"}, status=503)
        try:
            await orchestrator.check()
        except ServiceError as error:
            return json_response({"status": "not ready", "reason": error.message}, status=503)
        return json_response({"status": "ready"})

    chat: ASGIApp = ChatCompletions(orchestrator=orchestrator, auth=auth, limits=limits, turns=turns)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", list_models, methods=["GET"]),
            # A path, so that a name with a slash is an unknown model and not an unknown path.
            Route("/v1/models/{model:path}", get_model, methods=["GET"]),
            *stored_routes(conversations=conversations, auth=auth),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
        ],
        exception_handlers={
            ApiError: _api_error,
            ServiceError: _service_error,
            HTTPException: _http_error,
            Exception: _bug,
        },
    )
    app.router.redirect_slashes = False
    return app


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _service_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return error_response(refused(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = re.sub(r"[^\x20-\x7e]", "?", request.url.path)[:200]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{request.method} {path} is not possible; allowed: {allowed}."
        response = error_response(ApiError(405, message, code="method_not_allowed"))
        response.headers["allow"] = allowed
        return response
    if error.status_code == 404:
        there = "/v1/models, /v1/chat/completions, /v1/runs/{run} and /v1/sessions/{session}/messages"
        message = f"Unknown path: {path}. There are {there}."
        return error_response(ApiError(404, message, code="unknown_url"))
    return error_response(ApiError(error.status_code, str(error.detail), code="http_error"))


async def _bug(_: Request, __: Exception) -> Response:
    # Starlette raises it again after this, and the server logs it.
    return error_response(ApiError(500, "internal error", code="internal"))

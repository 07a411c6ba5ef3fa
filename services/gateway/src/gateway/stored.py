"""What is stored, read over HTTP: a run, and the messages of a conversation."""

import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth import Authenticator
from gateway.core.errors import ApiError, invalid
from gateway.core.model import StoredMessage, StoredRun
from gateway.core.ports import Conversations
from gateway.core.render import citations_field, scores_field, stages_field, usage_field
from gateway.http import json_response
from servicekit import context

_ID = re.compile(r"[a-z0-9-]{1,64}")
_DEFAULT_PAGE, _MAX_PAGE = 50, 200


def stored_routes(*, conversations: Conversations, auth: Authenticator) -> list[Route]:
    """GET of runs and messages."""

    async def get_run(request: Request) -> Response:
        name = _name("runs", request.path_params["run"])
        with context.scope(caller=auth.caller(request.headers)):
            return json_response(_run(await conversations.run(name)))

    async def list_messages(request: Request) -> Response:
        name = _name("sessions", request.path_params["session"])
        with context.scope(caller=auth.caller(request.headers)):
            messages, token = await conversations.messages(
                name, page_size=_page_size(request), page_token=request.query_params.get("page_token", "")
            )
        return json_response({"messages": [_message(one) for one in messages], "next_page_token": token})

    return [
        Route("/v1/runs/{run}", get_run, methods=["GET"]),
        Route("/v1/sessions/{session}/messages", list_messages, methods=["GET"]),
    ]


def _name(kind: str, given: str) -> str:
    if not _ID.fullmatch(given):
        raise ApiError(404, f"There is no {kind}/{given[:80]!r}.", code=f"{kind[:-1]}_not_found")
    return f"{kind}/{given}"


def _page_size(request: Request) -> int:
    given = request.query_params.get("page_size", str(_DEFAULT_PAGE))
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:6]) <= _MAX_PAGE):
        raise invalid("page_size", f"page_size must be 1 to {_MAX_PAGE} (got {given[:80]!r}).")
    return int(given)


def _run(run: StoredRun) -> dict[str, object]:
    error = run.error
    return {
        "run": run.name,
        "session": run.session,
        "model": run.team,
        "status": run.state,
        "create_time": run.create_time,
        "end_time": run.end_time or None,
        "error": None if error is None else {"code": error.reason.lower(), "message": error.message},
        "usage": usage_field(run.usage),
        "stages": stages_field(run.stages),
        "scores": scores_field(run.scores),
    }


def _message(message: StoredMessage) -> dict[str, object]:
    scores = message.scores
    return {
        "message": message.name,
        "role": message.role,
        "content": message.content,
        "run": message.run,
        "create_time": message.create_time,
        "citations": citations_field(message.citations),
        "scores": None if scores is None else scores_field(scores, answer=message.content),
    }

"""Small pieces of HTTP."""

import asyncio

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive

from gateway.core.errors import ApiError

# A client that is slower than this with 1 MiB is not going to finish.
_BODY_TIMEOUT_S = 30.0


def json_response(content: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response with a JSON body."""
    body = content if isinstance(content, bytes) else msgspec.json.encode(content)
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """A response in OpenAI's error shape."""
    return json_response(error.body(), status=error.status, headers=dict(error.headers()))


class ClientGone(Exception):
    """The client has hung up; nobody is there to be answered."""


async def read_body(headers: Headers, receive: Receive, *, max_bytes: int) -> bytes:
    """The whole body of a request.

    Raises:
        ApiError: 413 over the limit, 408 when it does not come.
        ClientGone: The connection ended first.
    """
    too_large = ApiError(
        413,
        f"The body is larger than {max_bytes} bytes. Send fewer or shorter messages, "
        "or a stored conversation (X-AgentTeams-Session).",
        code="request_too_large",
    )
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as error:
        raise ApiError(
            408, f"The body did not arrive within {_BODY_TIMEOUT_S:.0f} s.", code="request_timeout"
        ) from error

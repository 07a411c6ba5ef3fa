"""What an endpoint's failures mean to a caller."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAIError

from embedding.core.ports import RemoteSource
from servicekit.errors import FailedPrecondition, Internal, ResourceExhausted, ServiceError, Unavailable

_RETRYABLE = {408, 409, 425, 429}
_TOO_LONG = re.compile(
    r"context length|less than \d+ tokens|too (long|many tokens|large)|max\w* .{0,40}tokens", re.I
)
_LIMIT = re.compile(r"(\d{2,7}) tokens")
# When an endpoint says "too many" and not until when.
_DEFAULT_RETRY_AFTER = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class TooLong:
    """An input was longer than the model reads; `limit` in tokens, if the endpoint says it."""

    limit: int | None


def too_long(exc: APIStatusError) -> TooLong | None:
    """Whether it refused an input for its length: OpenAI, vLLM and llama.cpp by 400, TEI by 413."""
    text = _message(exc)
    if exc.status_code not in (400, 413, 422) or not _TOO_LONG.search(text):
        return None
    found = _LIMIT.search(text)
    return TooLong(int(found[1]) if found else None)


def is_retryable(exc: OpenAIError | TimeoutError) -> bool:
    """Whether the same request may well succeed a little later."""
    if isinstance(exc, APIStatusError):
        return exc.status_code >= 500 or exc.status_code in _RETRYABLE
    return isinstance(exc, (APIConnectionError, TimeoutError))


def failure(source: RemoteSource, exc: OpenAIError | TimeoutError) -> ServiceError:
    """The error to raise for what the client raised."""
    where = f"model {source.model} at {source.url}"
    facts = {"model": source.model, "endpoint": source.url}
    if isinstance(exc, (APITimeoutError, TimeoutError)):
        return Unavailable(f"{where}: did not answer in time", reason="MODEL_UNAVAILABLE", metadata=facts)
    if isinstance(exc, APIConnectionError):
        why = shorten(str(exc.__cause__ or exc)) or type(exc.__cause__ or exc).__name__
        return Unavailable(f"{where}: cannot be reached: {why}", reason="MODEL_UNAVAILABLE", metadata=facts)
    if not isinstance(exc, APIStatusError):
        return Internal(
            f"{where}: its answer is not that of an embeddings API: {shorten(str(exc))}",
            reason="MODEL_BAD_RESPONSE",
            metadata=facts,
        )
    said = _message(exc)
    if source.api_key:
        said = said.replace(source.api_key, "***")
    message = f"{where}: HTTP {exc.status_code}: {said}"
    facts["status"] = str(exc.status_code)
    after = _retry_after(exc)
    if exc.status_code == 429:
        return ResourceExhausted(
            message, reason="MODEL_RATE_LIMITED", metadata=facts, retry_after=after or _DEFAULT_RETRY_AFTER
        )
    if is_retryable(exc):
        return Unavailable(message, reason="MODEL_UNAVAILABLE", metadata=facts, retry_after=after)
    return FailedPrecondition(message, reason="MODEL_REJECTED", metadata=facts)


def shorten(text: str) -> str:
    """At most 300 characters in one line."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def _message(exc: APIStatusError) -> str:
    body = exc.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        found = inner.get("message") if isinstance(inner, dict) else inner
        if isinstance(found, str) and found:
            return shorten(found)
    return shorten(exc.message)


def _retry_after(exc: APIStatusError) -> timedelta | None:
    value = exc.response.headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    # Not a number, in the past, or further off than a day: as good as not said.
    return timedelta(seconds=seconds) if 0 <= seconds <= 86_400 else None

"""Requests to an endpoint: how many at a time, for how long, how often."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

from embedding.adapters.openai_errors import failure, is_retryable
from embedding.core.ports import RemoteSource
from embedding.core.slots import Slots
from manifests.endpoints import trusting
from servicekit.context import remaining_s
from servicekit.errors import FailedPrecondition, Internal, ServiceError

R = TypeVar("R")
_BACKOFF_S, _BACKOFF_MAX_S = 0.25, 4.0
# A longer Retry-After is the caller's business: it is told at once.
_WAIT_MAX_S = 10.0


class Endpoint:
    """One source's client.

    Retries are its own, not the client's: those sleep through a Retry-After
    that is longer than the caller's deadline, and the reason is lost.

    Args:
        source: Where, what and with which key.
        sleep: Waits that many seconds between attempts.
    """

    def __init__(
        self, source: RemoteSource, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._source = source
        self._sleep = sleep
        self._slots = Slots(source.max_concurrent)
        self._client = AsyncOpenAI(
            **source.client_options,
            http_client=_trusting(source) if source.authorities else None,
        )

    async def call(
        self,
        send: Callable[[AsyncOpenAI, float], Awaitable[R]],
        *,
        urgent: bool,
        own: Callable[[OpenAIError | TimeoutError], Exception | None] = lambda _: None,
    ) -> R:
        """Sends, and again as often as it may help.

        Args:
            send: Makes one request that takes at most that many seconds.
            urgent: Goes before those that are not.
            own: The caller's exception for a failure that it handles itself; None: it does not.
        """
        for attempt in itertools.count():
            try:
                return await self._attempt(send, urgent=urgent)
            except (OpenAIError, TimeoutError) as exc:
                if (handled := own(exc)) is not None:
                    raise handled from exc
                error = failure(self._source, exc)
                if attempt >= self._source.max_retries or not is_retryable(exc):
                    raise error from exc
                wait = _wait_s(attempt, error)
                if wait is None:
                    raise error from exc
                await self._sleep(wait)
        raise AssertionError("the loop ends by return or raise")

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def nonsense(self, what: str) -> Internal:
        """The error to raise for an answer that is none."""
        return Internal(
            f"model {self._source.model} at {self._source.url}: {what}",
            reason="MODEL_BAD_RESPONSE",
            metadata={"model": self._source.model, "endpoint": self._source.url},
        )

    async def _attempt(self, send: Callable[[AsyncOpenAI, float], Awaitable[R]], *, urgent: bool) -> R:
        async with self._slots.hold(urgent=urgent):
            left = remaining_s()
            allowed = self._source.timeout.total_seconds()
            allowed = allowed if left is None else max(0.001, min(allowed, left))
            try:
                # The client's own time-outs are for each read; this is for the whole.
                async with asyncio.timeout(allowed):
                    return await send(self._client, allowed)
            except ValueError as exc:
                raise self.nonsense(f"its answer is no JSON: {exc}") from exc


def _wait_s(attempt: int, error: ServiceError) -> float | None:
    """How long to wait before the next attempt; None: the caller's time is too short."""
    if error.retry_after is not None:
        wait = error.retry_after.total_seconds()
    else:
        wait = min(_BACKOFF_S * 2**attempt, _BACKOFF_MAX_S) * random.uniform(0.75, 1.0)
    left = remaining_s()
    if wait > _WAIT_MAX_S or (left is not None and wait >= left):
        return None
    return wait


def _trusting(source: RemoteSource) -> DefaultAsyncHttpxClient:
    try:
        context = trusting(source.authorities)
    except ValueError as exc:
        raise FailedPrecondition(
            f"model {source.model} at {source.url}: {exc}",
            reason="MODEL_REJECTED",
            metadata={"model": source.model, "endpoint": source.url},
        ) from exc
    return DefaultAsyncHttpxClient(verify=context)

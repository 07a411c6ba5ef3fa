"""Rerank endpoints: POST {url}/rerank, as Cohere, Jina and vLLM serve it, and as TEI does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx2
from openai import APIStatusError, AsyncOpenAI, OpenAIError

from embedding.adapters.endpoint import Endpoint
from embedding.core.admission import Admission
from embedding.core.ports import RemoteSource, RerankResult

# TEI refuses more than its `max-client-batch-size`, 32 unless it is told otherwise.
_TEI_PASSAGES, _PASSAGES = 32, 256


class RerankEndpoint:
    """`Reranker` over an endpoint; learns from its first answer which of the two forms it speaks.

    Args:
        source: Where, what and with which key.
        admission: The bound on what waits.
        sleep: Waits that many seconds between attempts.
    """

    def __init__(
        self,
        source: RemoteSource,
        *,
        admission: Admission,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._admission = admission
        self._endpoint = Endpoint(source, sleep=sleep)
        self._is_tei = False

    async def rerank(self, query: str, passages: Sequence[str]) -> RerankResult:
        """See Reranker."""
        with self._admission.hold(len(passages)):
            if not self._is_tei:
                try:
                    return RerankResult(scores=await self._ask(query, passages), truncated=[])
                except _OtherForm:
                    self._is_tei = True
            starts = range(0, len(passages), _TEI_PASSAGES)
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._ask(query, passages[start : start + _TEI_PASSAGES]))
                        for start in starts
                    ]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from failed
        return RerankResult(scores=[score for task in tasks for score in task.result()], truncated=[])

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._endpoint.aclose()

    async def _ask(self, query: str, passages: Sequence[str]) -> list[float]:
        body: dict[str, Any] = {"model": self._source.model, "query": query, "documents": list(passages)}
        if self._is_tei:
            body = {"query": query, "texts": list(passages), "truncate": True}

        async def send(client: AsyncOpenAI, allowed_s: float) -> Any:
            response = await client.post(
                "/rerank", cast_to=httpx2.Response, body=body, options={"timeout": allowed_s}
            )
            return response.json()

        def own(exc: OpenAIError | TimeoutError) -> Exception | None:
            refused = isinstance(exc, APIStatusError) and exc.status_code in (400, 422)
            return _OtherForm() if refused and not self._is_tei and "texts" in _said(exc) else None

        return self._scores(await self._endpoint.call(send, urgent=True, own=own), len(passages))

    def _scores(self, answer: Any, count: int) -> list[float]:
        items: Any = answer.get("results") if isinstance(answer, dict) else answer
        try:
            found = {
                int(item["index"]): float(item["relevance_score" if "relevance_score" in item else "score"])
                for item in items
            }
        except (TypeError, KeyError, ValueError) as exc:
            raise self._endpoint.nonsense("its scores cannot be read") from exc
        if sorted(found) != list(range(count)) or len(items) != count:
            raise self._endpoint.nonsense(f"it gave {len(items)} scores for {count} passages, or for others")
        if not all(map(math.isfinite, found.values())):
            raise self._endpoint.nonsense("a score of it is not a number")
        return [found[index] for index in range(count)]


class _OtherForm(Exception):
    """The endpoint misses `texts`: it speaks TEI's form."""


def _said(exc: Exception) -> str:
    return exc.response.text if isinstance(exc, APIStatusError) else ""

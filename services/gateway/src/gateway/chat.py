"""POST /v1/chat/completions.

Plain ASGI: a streamed answer is a dozen small writes, and each layer around
`send` would cost as much as the write.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from starlette.types import Receive, Scope, Send

from gateway.auth import Authenticator
from gateway.core.errors import ApiError, refused
from gateway.core.model import NoScores, Question, Run, RunEnded, Scores
from gateway.core.ports import Orchestrator
from gateway.core.render import Chunks, completion, scores_field
from gateway.core.request import parse_question
from gateway.core.turn import Turn
from gateway.http import ClientGone, json_response, read_body
from gateway.metrics import DISCONNECTS, FIRST_TEXT_SECONDS, OPEN_TURNS, REQUEST_SECONDS
from gateway.reply import Reply
from gateway.tracing import note_status, served
from servicekit import context
from servicekit.errors import ServiceError
from servicekit.ids import is_uuid4
from servicekit.spans import observe

log = structlog.get_logger()

_SCORES_MARGIN = timedelta(seconds=5)  # for the orchestrator to say that they have not come
_CLIENT_GONE = 499  # nginx's word for it; nobody receives it


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one request, and of all together."""

    max_body_bytes: int
    max_turns: int
    run_timeout: timedelta
    keep_alive: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    caller: context.Caller
    question: Question
    request_id: str
    created: int  # Unix time
    # Repeating by itself would be another run, unless the client named this one.
    retry: bool | None

    def headers(self, run: Run) -> dict[str, str]:
        return {
            "x-request-id": self.request_id,
            "x-agentteams-run": run.name,
            "x-agentteams-session": run.session,
        }


class OpenTurns:
    """The questions that are being answered, for the limit and for a stop."""

    def __init__(self) -> None:
        self._deadlines: set[asyncio.Timeout] = set()
        self.draining = False  # the process was told to stop; what is open may still end
        self.stopping = False  # and now it may not

    def __len__(self) -> int:
        return len(self._deadlines)

    @contextmanager
    def holding(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """Counts a turn while the block runs."""
        self._deadlines.add(deadline)
        OPEN_TURNS.inc()
        try:
            yield
        finally:
            self._deadlines.remove(deadline)
            OPEN_TURNS.dec()

    def end_all(self) -> None:
        """Ends all turns with an error that says so: the process stops."""
        self.stopping = True
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            deadline.reschedule(now)


class ChatCompletions:
    """The endpoint."""

    def __init__(
        self, *, orchestrator: Orchestrator, auth: Authenticator, limits: Limits, turns: OpenTurns
    ) -> None:
        self._orchestrator = orchestrator
        self._auth = auth
        self._limits = limits
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        started = time.perf_counter()
        reply = Reply(scope, receive, send)
        status = _CLIENT_GONE
        try:
            status = await self._answer(reply, started)
        except* ClientGone:
            DISCONNECTS.inc()
        except* Exception as group:
            status = 500
            log.error("request_failed", exc_info=group)
            await reply.error(ApiError(500, "internal error", code="internal"))
        stream = "true" if reply.streaming else "false"
        REQUEST_SECONDS.labels(stream, str(status)).observe(time.perf_counter() - started)

    async def _answer(self, reply: Reply, started: float) -> int:
        with served("POST /v1/chat/completions", reply.headers) as span:
            try:
                asked = await self._read(reply)
                with context.scope(caller=asked.caller):
                    await self._run(reply, asked, started)
            except ApiError as error:
                note_status(span, error.status, error.code)
                await reply.error(error)
                return error.status
            note_status(span, 200)
        return 200

    async def _read(self, reply: Reply) -> _Asked:
        headers = reply.headers
        caller = self._auth.caller(headers)
        if len(self._turns) >= self._limits.max_turns:
            raise ApiError(
                503,
                f"{self._limits.max_turns} questions are open already; try again.",
                code="too_many_requests",
                retry_after_s=1.0,
            )
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # Also what keeps web pages of other sites out: they cannot send JSON without asking first.
            raise ApiError(
                415,
                "Content-Type must be application/json.",
                code="unsupported_media_type",
                param="Content-Type",
            )
        own_id = headers.get("idempotency-key", "")
        if own_id and not is_uuid4(own_id):
            raise ApiError(
                400,
                f"Idempotency-Key must be a UUID of version 4 (got {own_id[:80]!r}).",
                code="invalid_value",
                param="Idempotency-Key",
            )
        body = await read_body(headers, reply.receive, max_bytes=self._limits.max_body_bytes)
        question = parse_question(
            body,
            session_header=headers.get("x-agentteams-session", ""),
            scores_header=headers.get("x-agentteams-wait-scores", ""),
        )
        return _Asked(
            caller=caller,
            question=question,
            request_id=own_id or str(uuid.uuid4()),
            created=int(time.time()),
            retry=None if own_id else False,
        )

    async def _run(self, reply: Reply, asked: _Asked, started: float) -> None:
        turn: Turn | None = None
        failure: ServiceError | None = None
        try:
            async with asyncio.timeout(self._limits.run_timeout.total_seconds()) as deadline:
                with self._turns.holding(deadline):
                    turn = await self._start(asked)
                    failure = await self._follow(reply, asked, turn, started)
        except TimeoutError as error:
            raise self._too_late(asked, turn) from error
        if failure is not None:
            raise refused(failure, run=turn.run, retry=asked.retry) from failure
        await self._finish(reply, asked, turn)

    async def _start(self, asked: _Asked) -> Turn:
        try:
            return Turn(*await self._orchestrator.ask(asked.question, request_id=asked.request_id))
        except ServiceError as error:
            raise refused(error) from error

    async def _follow(self, reply: Reply, asked: _Asked, turn: Turn, started: float) -> ServiceError | None:
        async with self._watched(reply):
            try:
                async with aclosing(turn.pieces(self._orchestrator)) as pieces:
                    if asked.question.stream:
                        await _write(reply, asked, turn, pieces, started)
                    else:
                        async for _ in pieces:
                            pass
            except ServiceError as error:
                return error  # as a value: the group would wrap it
        return None

    @asynccontextmanager
    async def _watched(self, reply: Reply) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            # One task a request, for hang-ups and keep-alives; the pieces themselves need none.
            watcher = group.create_task(reply.watch(self._limits.keep_alive.total_seconds()))
            try:
                yield
            finally:
                watcher.cancel()

    async def _finish(self, reply: Reply, asked: _Asked, turn: Turn) -> None:
        ended = turn.result()
        question = asked.question
        if question.stream:
            chunks = _chunks(asked, turn)
            end = chunks.finish(turn.extra(streamed=True))
            if question.wait_scores:
                await reply.write(end)  # the answer is there; its scores may take long
                end = chunks.scores(await self._scores(reply, asked, turn, ended))
            await reply.end_stream(end + chunks.last(ended))
            return
        extra = turn.extra(streamed=False)
        if question.wait_scores:
            extra["scores"] = await self._scores(reply, asked, turn, ended)
        body = completion(run=turn.run, team=question.team, text=turn.text, extra=extra, ended=ended)
        await reply.whole(json_response(body, headers=asked.headers(turn.run)))

    async def _scores(self, reply: Reply, asked: _Asked, turn: Turn, ended: RunEnded) -> dict[str, object]:
        """The field `scores`. The answer is there already, and nothing that goes wrong here costs it."""
        wait = asked.question.wait_scores
        found: Scores | NoScores = NoScores(missing="not_yet")
        try:
            async with asyncio.timeout((wait + _SCORES_MARGIN).total_seconds()) as deadline:
                with self._turns.holding(deadline):
                    async with self._watched(reply):
                        found = await self._asked_scores(turn, ended, wait)
        except TimeoutError:
            log.info("scores_not_awaited", run=turn.run.name, stopping=self._turns.stopping)
        return scores_field(found, answer=turn.text)

    async def _asked_scores(self, turn: Turn, ended: RunEnded, wait: timedelta) -> Scores | NoScores:
        try:
            return await self._orchestrator.scores(turn.run, after=ended.sequence, within=wait)
        except ServiceError as error:
            log.warning("scores_unavailable", run=turn.run.name, reason=error.reason, error=error.message)
            return NoScores(missing="unavailable", reason=error.message)

    def _too_late(self, asked: _Asked, turn: Turn | None) -> ApiError:
        run = None if turn is None else turn.run
        again = f"it goes on. Repeat the request with Idempotency-Key {asked.request_id} to follow it."
        if self._turns.stopping:
            message = f"This gateway stops before the run has ended; {again}"
            return ApiError(
                503, message, code="gateway_stopping", retry_after_s=1.0, retry=asked.retry, run=run
            )
        if turn is not None and turn.waits_for:
            message = (
                f"The run waits for {turn.waits_for}; {again} Answer it with "
                f"`agentteams runs approve|reject|answer {turn.run.name}` or over gRPC."
            )
            return ApiError(504, message, code="waiting_for_person", retry=asked.retry, run=run)
        seconds = self._limits.run_timeout.total_seconds()
        message = f"The run has not ended after {seconds:g} s; {again}"
        return ApiError(504, message, code="deadline_exceeded", retry=asked.retry, run=run)


async def _write(
    reply: Reply, asked: _Asked, turn: Turn, pieces: AsyncGenerator[str, None], started: float
) -> None:
    chunks = _chunks(asked, turn)
    await reply.begin_stream(asked.headers(turn.run), chunks.first())
    first = True
    async for text in pieces:
        await reply.write(chunks.text(text))
        if first:
            observe(FIRST_TEXT_SECONDS, time.perf_counter() - started)
            first = False


def _chunks(asked: _Asked, turn: Turn) -> Chunks:
    return Chunks(
        run=turn.run,
        team=asked.question.team,
        created=asked.created,
        include_usage=asked.question.include_usage,
    )

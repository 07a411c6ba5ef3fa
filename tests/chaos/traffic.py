"""Clients as users have them: they ask, listen, hang up, come back, interrupt and cancel.

Each draws what it does from the seed and its number. None gives up before its
deadline: what a client may expect of the system is that trying again helps.
"""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as session_api
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub
from google.protobuf.json_format import MessageToDict

from servicekit.client import RpcClient
from servicekit.context import Caller, scope
from servicekit.errors import (
    FailedPrecondition,
    NotFound,
    ServiceError,
)
from tests.chaos import asking
from tests.chaos.cluster import ORCHESTRATORS, TEAMS, Cluster
from tests.chaos.forks import fork
from tests.chaos.history import (
    Ack,
    Answer,
    Ask,
    Delta,
    Event,
    Recorder,
    StoredMessage,
    StoredRun,
    body_of,
    kind_of,
    sequence_of,
)

if TYPE_CHECKING:
    from agentteams.session.v1.session_service_pb2_grpc import SessionServiceAsyncStub

TENANT = "default"
OPENAI_USER = "local"
_RETRY_S = (0.1, 0.6)
_STREAM = timedelta(seconds=20)
_POLICIES = (
    run_pb2.BUSY_POLICY_ENQUEUE,
    run_pb2.BUSY_POLICY_ENQUEUE,
    run_pb2.BUSY_POLICY_INTERRUPT,
    run_pb2.BUSY_POLICY_REJECT,
)
# Refusals that are an answer. Everything else is tried again with the same request id.
_FINAL = frozenset({"SESSION_BUSY", "SESSION_QUEUE_FULL"})
_ENDED = (run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED)
_ROLES = {session_pb2.ROLE_USER: "user", session_pb2.ROLE_ASSISTANT: "assistant"}


@dataclass(kw_only=True)
class Clock:
    """When clients stop asking, and when they stop waiting."""

    ask_until: float
    wait_until: float

    @property
    def may_ask(self) -> bool:
        return time.monotonic() < self.ask_until

    @property
    def may_wait(self) -> bool:
        return time.monotonic() < self.wait_until


class GaveUp(Exception):
    """The client's deadline is over; the checker will find out why."""


def event_of(event: run_pb2.RunEvent) -> Event:
    """As the history keeps it."""
    return MessageToDict(event, preserving_proto_field_name=True)


@dataclass(kw_only=True)
class GrpcClient:
    """One user who talks to both orchestrators over gRPC."""

    number: int
    rpcs: Sequence[RpcClient]
    sessions: RpcClient
    recorder: Recorder
    clock: Clock
    dice: random.Random
    session: str = ""
    team: str = ""

    @property
    def name(self) -> str:
        return f"client-{self.number}"

    async def run(self) -> None:
        """Asks until it may not, then sees its last runs to their end."""
        with scope(caller=Caller(TENANT, self.name)):
            while self.clock.may_ask:
                try:
                    await self._conversation()
                except* GaveUp:
                    self.recorder.note("gave_up", self.name)
                await asyncio.sleep(self.dice.uniform(0.0, 0.5))

    async def _conversation(self) -> None:
        self.session, self.team = "", self.dice.choice((*TEAMS, asking.TEAM))
        for _ in range(self.dice.randint(1, 4)):
            if not self.clock.may_ask:
                return
            if self.session and self.dice.random() < 0.2:
                self.session = await fork(
                    self.sessions,
                    self.session,
                    client=self.name,
                    recorder=self.recorder,
                    dice=self.dice,
                    wait_until=self.clock.wait_until,
                )
            run = await self._ask(self.dice.choice(_POLICIES))
            if run is None:
                continue
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(run, leaves=self.dice.choice((0, 0, 1, 2))))
                if self.dice.random() < 0.15:
                    group.create_task(self._cancel(run, after_s=self.dice.uniform(0.0, 1.5)))
                if self.dice.random() < 0.4:
                    # While the first is being answered.
                    await asyncio.sleep(self.dice.uniform(0.0, 0.8))
                    for _ in range(self.dice.randint(1, 2)):
                        second = await self._ask(self.dice.choice(_POLICIES))
                        if second is not None:
                            group.create_task(self._follow(second, leaves=self.dice.choice((0, 1))))

    async def _ask(self, on_busy: "run_pb2.BusyPolicy.ValueType") -> str | None:
        request_id = str(uuid.UUID(int=self.dice.getrandbits(128), version=4))
        question = f"How many days of paid leave are there? ({request_id})"
        self.recorder.ask(
            Ask(request_id=request_id, client=self.name, question=question, session=self.session)
        )
        request = pb.StartRunRequest(
            team=f"teams/{self.team}",
            session=self.session,
            input=[session_pb2.Message(role=session_pb2.ROLE_USER, content=question)],
            request_id=request_id,
            on_busy=on_busy,
        )
        run = await self._start(request)
        if run is not None:
            self.session = self.session or run.session
            if self.dice.random() < 0.1:
                await self._start(request)  # as one who did not get the answer would
        return None if run is None else run.name

    async def _start(self, request: pb.StartRunRequest) -> run_pb2.Run | None:
        while self.clock.may_wait:
            try:
                rpc = self._any()
                run = await rpc.unary(OrchestratorServiceStub(rpc.channel).StartRun, request)
            except ServiceError as error:
                self.recorder.note("refused", self.name, reason=error.reason, message=error.message[:200])
                if error.reason in _FINAL:
                    return None
                await self._pause()
                continue
            self.recorder.ack(Ack(request_id=request.request_id, run=run.name, session=run.session))
            return run
        raise GaveUp

    async def _follow(self, run: str, *, leaves: int) -> None:
        """Until its end; hangs up so often in between, on purpose."""
        async with asyncio.TaskGroup() as answers:
            await self._follow_and_answer(run, leaves, answers)

    async def _follow_and_answer(self, run: str, leaves: int, answers: asyncio.TaskGroup) -> None:
        after = 0
        while self.clock.may_wait:
            stream = self.recorder.stream(client=self.name, run=run, after=after)
            patience = self.dice.randint(1, 12) if leaves else 0
            leaves -= 1 if leaves else 0
            try:
                async with aclosing(self._items(run, after)) as items:
                    async for item in items:
                        self.recorder.saw(stream, item)
                        if not isinstance(item, Delta):
                            after = sequence_of(item)
                            if kind_of(item) == "run_finished":
                                return
                            if kind_of(item) == "input_requested":
                                call = str(body_of(item).get("call_id"))
                                answers.create_task(self._respondent().answer(run, call))
                        if patience and len(stream.items) >= patience:
                            break
            except ServiceError as error:
                self.recorder.note(
                    "broken", self.name, run=run, reason=error.reason, message=error.message[:200]
                )
            await self._pause()
        self.recorder.note("gave_up", self.name, run=run)

    async def _items(self, run: str, after: int) -> AsyncGenerator[Event | Delta, None]:
        rpc = self._any()
        request = pb.StreamRunEventsRequest(run=run, after_sequence=after)
        method = OrchestratorServiceStub(rpc.channel).StreamRunEvents
        async with aclosing(rpc.server_stream(method, request, timeout=_STREAM)) as responses:  # type: ignore[type-var]
            async for response in responses:
                for item in response.items:
                    if item.HasField("event"):
                        yield event_of(item.event)
                    else:
                        d = item.text_delta
                        yield Delta(message=d.message, offset=d.offset, text=d.text, member=d.member)

    async def _cancel(self, run: str, *, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while self.clock.may_wait:
            try:
                rpc = self._any()
                await rpc.unary(OrchestratorServiceStub(rpc.channel).CancelRun, pb.CancelRunRequest(name=run))
            except FailedPrecondition:
                return  # it has ended
            except ServiceError as error:
                self.recorder.note("not_cancelled", self.name, run=run, reason=error.reason)
                await self._pause()
                continue
            self.recorder.note("cancelled", self.name, run=run)
            return

    def _respondent(self) -> asking.Respondent:
        return asking.Respondent(
            client=self.name,
            any_rpc=self._any,
            recorder=self.recorder,
            dice=self.dice,
            wait_until=self.clock.wait_until,
        )

    def _any(self) -> RpcClient:
        return self.dice.choice(self.rpcs)

    async def _pause(self) -> None:
        await asyncio.sleep(self.dice.uniform(*_RETRY_S))


@dataclass(kw_only=True)
class OpenAiClient:
    """One user who knows only the OpenAI API, and repeats with the same Idempotency-Key."""

    number: int
    url: str
    http: httpx.AsyncClient
    recorder: Recorder
    clock: Clock
    dice: random.Random

    @property
    def name(self) -> str:
        return f"openai-{self.number}"

    async def run(self) -> None:
        """Asks until it may not."""
        session = ""
        while self.clock.may_ask:
            session = "" if self.dice.random() < 0.4 else session
            session = await self._ask(session)
            await asyncio.sleep(self.dice.uniform(0.0, 0.5))

    async def _ask(self, session: str) -> str:
        key = str(uuid.UUID(int=self.dice.getrandbits(128), version=4))
        question = f"Where is the travel desk? ({key})"
        self.recorder.ask(Ask(request_id=key, client=self.name, question=question, session=session))
        headers = {"Idempotency-Key": key} | ({"X-AgentTeams-Session": session} if session else {})
        body = {
            "model": self.dice.choice(TEAMS) if not session else self._team,
            "messages": [{"role": "user", "content": question}],
            "stream": True,
        }
        self._team = str(body["model"])
        leave_after = self.dice.choice((0, 0, self.dice.randint(1, 10)))
        while self.clock.may_wait:
            try:
                done = await self._once(key, headers, body, leave_after)
            except httpx.HTTPError as error:
                self.recorder.note("broken", self.name, request_id=key, reason=type(error).__name__)
                done = None
            leave_after = 0
            if done is not None:
                return done
            await asyncio.sleep(self.dice.uniform(*_RETRY_S))
        self.recorder.note("gave_up", self.name, request_id=key)
        return ""

    _team: str = field(default="", init=False)

    async def _once(
        self, key: str, headers: dict[str, str], body: dict[str, object], leave_after: int
    ) -> str | None:
        """The session, once the answer is whole or the run has failed; None: try again."""
        extra: dict[str, Any] = {}
        text, chunks = "", 0
        async with self.http.stream(
            "POST", f"{self.url}/chat/completions", json=body, headers=headers
        ) as reply:
            run, session = (
                reply.headers.get("x-agentteams-run", ""),
                reply.headers.get("x-agentteams-session", ""),
            )
            if reply.status_code != 200:
                await reply.aread()
                error = reply.json().get("error", {})
                self.recorder.note(
                    "refused", self.name, status=reply.status_code, reason=error.get("code"), request_id=key
                )
                # A failed run is an answer too; the checker finds the run by its acknowledgement.
                return None if error.get("code") in _TRANSIENT else self._session_of(error)
            if run:
                self.recorder.ack(Ack(request_id=key, run=run, session=session))
            async for line in reply.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    break
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    code = chunk["error"].get("code")
                    self.recorder.note("stream_error", self.name, request_id=key, reason=code)
                    return None if code in _TRANSIENT else self._session_of(chunk["error"])
                text += "".join(c["delta"].get("content") or "" for c in chunk.get("choices", []))
                extra = chunk.get("agentteams", extra)
                chunks += 1
                if leave_after and chunks >= leave_after:
                    return None
        if not extra:
            return None  # it ended without its last chunk: cut
        answer = Answer(request_id=key, run=extra["run"], text=text, status=extra["status"])
        self.recorder.answer(answer)
        return str(extra["session"])

    def _session_of(self, error: dict[str, object]) -> str:
        return str(error.get("session") or "")


# Errors after which the same request is worth repeating; with any other one the question is answered.
_TRANSIENT = frozenset(
    {"dependency_unavailable", "gateway_stopping", "deadline_exceeded", "too_many_requests", "too_many_runs"}
    | {"team_not_ready", "model_not_found", "unavailable"}
)


async def run_clients(
    cluster: Cluster, *, recorder: Recorder, clock: Clock, seed: int, grpc_clients: int, openai_clients: int
) -> None:
    """All clients at once, until their deadlines."""
    async with AsyncExitStack() as exits, asyncio.TaskGroup() as group:
        http = await exits.enter_async_context(httpx.AsyncClient(timeout=httpx.Timeout(30.0, connect=2.0)))
        for number in range(grpc_clients):
            rpcs = [await exits.enter_async_context(cluster.rpc(name)) for name in ORCHESTRATORS]
            dice = random.Random(f"client-{seed}-{number}")
            client = GrpcClient(
                number=number,
                rpcs=rpcs,
                sessions=await exits.enter_async_context(cluster.rpc("session")),
                recorder=recorder,
                clock=clock,
                dice=dice,
            )
            group.create_task(client.run())
        for number in range(openai_clients):
            dice = random.Random(f"openai-{seed}-{number}")
            url = cluster.live.url
            user = OpenAiClient(number=number, url=url, http=http, recorder=recorder, clock=clock, dice=dice)
            group.create_task(user.run())


async def read_store(
    cluster: Cluster, *, grpc_clients: int
) -> tuple[dict[str, StoredRun], dict[str, list[StoredMessage]]]:
    """Everything that the clients' users have, through the session service."""
    runs: dict[str, StoredRun] = {}
    sessions: dict[str, list[StoredMessage]] = {}
    async with cluster.rpc("session") as rpc:
        stub = SessionServiceStub(rpc.channel)
        for user in [*(f"client-{number}" for number in range(grpc_clients)), OPENAI_USER]:
            with scope(caller=Caller(TENANT, user)):
                async for run in _all_runs(rpc, stub):
                    runs[run.name] = StoredRun(
                        name=run.name,
                        session=run.session,
                        state=run_pb2.RunState.Name(run.state),
                        last_sequence=run.last_sequence,
                        attempt=run.attempt,
                        events=[event_of(e) async for e in _all_events(rpc, stub, run.name)],
                    )
                token, more = "", True
                while more:
                    listed = await rpc.unary(
                        stub.ListSessions, session_api.ListSessionsRequest(page_size=200, page_token=token)
                    )
                    for session in listed.sessions:
                        sessions[session.name] = [m async for m in _all_messages(rpc, stub, session.name)]
                    token = listed.next_page_token
                    more = bool(token)
    return runs, sessions


async def unfinished(cluster: Cluster, *, grpc_clients: int) -> int:
    """How many runs have not ended. Raises ServiceError while the store cannot be asked."""
    count = 0
    async with cluster.rpc("session") as rpc:
        stub = SessionServiceStub(rpc.channel)
        for user in [*(f"client-{number}" for number in range(grpc_clients)), OPENAI_USER]:
            with scope(caller=Caller(TENANT, user)):
                async for run in _all_runs(rpc, stub):
                    count += run.state not in _ENDED
    return count


async def _all_runs(rpc: RpcClient, stub: "SessionServiceAsyncStub") -> AsyncIterator[run_pb2.Run]:
    token = ""
    while True:
        page = await rpc.unary(stub.ListRuns, session_api.ListRunsRequest(page_size=200, page_token=token))
        for run in page.runs:
            yield run
        token = page.next_page_token
        if not token:
            return


async def _all_events(
    rpc: RpcClient, stub: "SessionServiceAsyncStub", run: str
) -> AsyncIterator[run_pb2.RunEvent]:
    after = 0
    while True:
        request = session_api.ListRunEventsRequest(run=run, after_sequence=after, page_size=500)
        page = await rpc.unary(stub.ListRunEvents, request)
        for event in page.events:
            yield event
        if not page.events:
            return
        after = page.events[-1].sequence


async def _all_messages(
    rpc: RpcClient, stub: "SessionServiceAsyncStub", session: str
) -> AsyncIterator[StoredMessage]:
    token = ""
    while True:
        request = session_api.ListMessagesRequest(parent=session, page_size=200, page_token=token)
        try:
            page = await rpc.unary(stub.ListMessages, request)
        except NotFound:
            return
        for message in page.messages:
            yield StoredMessage(
                sequence=message.sequence,
                role=_ROLES.get(message.role, str(message.role)),
                content=message.content,
                run=message.run,
            )
        token = page.next_page_token
        if not token:
            return

"""A run that may need a person, followed by one."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol

from agentteams.orchestrator.v1.orchestrator_service_pb2 import TextDelta
from agentteams.session.v1 import run_pb2

from agentteams_cli.client import StreamItem
from agentteams_cli.errors import Waiting

_LOOK_S = 1.0  # how often it is looked whether a run that has asked has nothing else to do
_YES, _NO = ("y", "yes"), ("n", "no", "")


class Runs(Protocol):
    """The calls about runs that are needed here: client.Client has them."""

    def follow(self, run: str) -> AsyncIterator[StreamItem]: ...

    async def run(self, name: str) -> run_pb2.Run: ...

    async def approve(self, run: str, call_id: str, *, approved: bool, reason: str = "") -> run_pb2.Run: ...

    async def answer_question(self, run: str, call_id: str, answer: str) -> run_pb2.Run: ...


class Person(Protocol):
    """Who can be asked."""

    async def decide(self, asked: run_pb2.ToolApprovalRequest) -> bool:
        """Whether a tool may be called."""
        ...

    async def answer(self, asked: run_pb2.UserQuestion) -> str:
        """The answer, which is one of the choices if there are any."""
        ...


class Terminal:
    """Who sits at the terminal."""

    @classmethod
    def here(cls) -> "Terminal | None":
        """None if nobody does."""
        return cls() if sys.stdin.isatty() and sys.stderr.isatty() else None

    async def decide(self, asked: run_pb2.ToolApprovalRequest) -> bool:
        """See Person."""
        while True:
            said = (await self._read(f"allow {asked.tool}? [y/N] ")).lower()
            if said in _YES or said in _NO:
                return said in _YES

    async def answer(self, asked: run_pb2.UserQuestion) -> str:
        """See Person."""
        choices = f" ({' | '.join(asked.choices)})" if asked.choices else ""
        while True:
            said = await self._read(f"{asked.text}{choices} ")
            if said and (not asked.choices or said in asked.choices):
                return said

    async def _read(self, prompt: str) -> str:
        sys.stderr.write(f"\n{prompt}")
        sys.stderr.flush()
        line: str = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            raise Waiting(
                "the run waits for an answer, and the input has ended",
                fix="`agentteams runs list --in-state waiting` shows it",
            )
        return line.strip()


class Attended:
    """Follows a run, and asks a person what it asks.

    Args:
        runs: Where runs are followed and answered.
        run: The run's name.
        person: Who is asked; None: nobody is there.
    """

    def __init__(self, runs: Runs, run: str, person: Person | None) -> None:
        self._runs = runs
        self._run = run
        self._person = person
        self._asked: dict[str, run_pb2.InputRequested] = {}

    async def items(self) -> AsyncGenerator[StreamItem, None]:
        """All that happens until the run's end. The person is asked when nothing else is left to do.

        Raises:
            Waiting: The run waits for a person, and nobody is there; says how to answer.
        """
        stream: Any = self._runs.follow(self._run)
        async with aclosing(stream):
            following = asyncio.ensure_future(anext(stream, None))
            try:
                while True:
                    await asyncio.wait([following], timeout=_LOOK_S if self._asked else None)
                    if not following.done():
                        await self._attend()
                        continue
                    item: StreamItem | None = following.result()
                    if item is None:
                        return
                    self._note(item)
                    following = asyncio.ensure_future(anext(stream, None))
                    yield item
            finally:
                following.cancel()
                await asyncio.wait([following])

    def _note(self, item: StreamItem) -> None:
        if isinstance(item, TextDelta):
            return
        if item.HasField("input_requested"):
            self._asked[item.input_requested.call_id] = item.input_requested
        elif item.HasField("input_provided"):
            self._asked.pop(item.input_provided.input.call_id, None)

    async def _attend(self) -> None:
        if (await self._runs.run(self._run)).state != run_pb2.RUN_STATE_WAITING:
            return
        if self._person is None:
            raise self._nobody_here()
        for call_id, request in list(self._asked.items()):
            if request.WhichOneof("request") == "question":
                answer = await self._person.answer(request.question)
                await self._runs.answer_question(self._run, call_id, answer)
            else:
                approved = await self._person.decide(request.approval)
                await self._runs.approve(self._run, call_id, approved=approved)
            del self._asked[call_id]

    def _nobody_here(self) -> Waiting:
        request = next(iter(self._asked.values()))
        if request.WhichOneof("request") == "question":
            what = f"asks: {request.question.text}"
            how = f"`agentteams runs answer {self._run} ANSWER`"
        else:
            what = f"waits for approval of {request.approval.tool}"
            how = f"`agentteams runs approve {self._run}` (or reject)"
        return Waiting(f"{self._run} {what}", fix=f"{how}, then `agentteams runs follow {self._run}`")

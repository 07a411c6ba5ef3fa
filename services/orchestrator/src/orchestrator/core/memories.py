"""What is remembered of a user beyond one session (docs/context.md)."""

import hashlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import replace

import structlog

from manifests import UserMemory
from orchestrator.core import prompts
from orchestrator.core.agent import Ability, Invocation, text_argument
from orchestrator.core.arguments import BadArguments
from orchestrator.core.guardrails.turns import screen_tool_result
from orchestrator.core.model import Memory, ToolCallFinished, ToolCallStarted
from orchestrator.core.recorded import own_step
from orchestrator.core.turn import Turn
from servicekit.errors import NotFound, ServiceError

log = structlog.get_logger()

_CALL = own_step("memories")
_TOOL = "recall_memories"
_MOST = 8
_MAX_CHARS = 500  # of one of them in a prompt
_QUERY_CHARS = 1_000  # the store looks at its first 32 words
_WORD = re.compile(r"[^\W_]")


async def recall(turn: Turn) -> None:
    """Looks up what is remembered of the user, if the team may know it; from the log if an attempt has it.

    A look-up that fails is told to the model and fails nothing.
    """
    query = turn.question[:_QUERY_CHARS]
    if _policy(turn) == "Off" or not _WORD.search(query):
        return
    recorded = turn.recorded.results.get(_CALL)
    finished = recorded.step if recorded else await _look_up(turn, query)
    turn.background = replace(
        turn.background,
        memories=tuple(_read(line) for line in finished.result.splitlines()),
        memories_lost=finished.error is not None,
    )


def memory_abilities(turn: Turn) -> list[Ability]:
    """To remember, and to forget what was shown; for whoever speaks with the user."""
    if _policy(turn) != "ReadWrite":
        return []
    known = turn.background.memories

    async def remember(call: Invocation) -> str:
        text = text_argument(call.arguments, "text")
        try:
            await turn.world.memories.add(text, team=_team(turn), request_id=_request_id(call))
        except ServiceError as error:
            return f"It could not be remembered: {error.message}"
        return "It will be remembered."

    async def forget(call: Invocation) -> str:
        number = call.arguments.get("number")
        if not isinstance(number, int) or not 1 <= number <= len(known):
            raise BadArguments(f"There is no memory {number}: they have the numbers 1 to {len(known)}.")
        try:
            await turn.world.memories.forget(known[number - 1].name)
        except NotFound:
            pass  # it is gone already: also what a repeated call finds
        except ServiceError as error:
            return f"It could not be forgotten: {error.message}"
        return "It is forgotten."

    abilities = [Ability(tool=prompts.remember_tool(), call=remember)]
    if known:
        abilities.append(Ability(tool=prompts.forget_tool(len(known)), call=forget))
    return abilities


async def _look_up(turn: Turn, query: str) -> ToolCallFinished:
    begun = _CALL in turn.recorded.calls
    turn.log.emit(
        ToolCallStarted(
            call_id=_CALL, tool=_TOOL, arguments={"query": query}, attempt=turn.attempt if begun else 1
        )
    )
    try:
        with turn.stages.stage("tool"):
            found = await turn.world.memories.search(query, team=_team(turn), limit=_MOST)
        # A model wrote them, perhaps after it had read what gives orders: they are looked at as tool results.
        seen = [
            Memory(name=m.name, text=await screen_tool_result(turn, m.text, call_id=_CALL, member=""))
            for m in found
        ]
        finished = ToolCallFinished(call_id=_CALL, result=_written(seen))
    except ServiceError as error:
        log.warning("memories_not_recalled", run=turn.log.run, error=error.message)
        finished = ToolCallFinished(call_id=_CALL, result="", error=error)
    turn.log.emit(finished)
    return finished


def _written(memories: Sequence[Memory]) -> str:
    """One line each, its name first: what the log keeps, and all that a later attempt knows."""
    lines = []
    for memory in memories:
        text = " ".join(memory.text.split())
        cut = text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]} [cut for lack of room]"
        lines.append(f"{memory.name} {cut}")
    return "\n".join(lines)


def _read(line: str) -> Memory:
    name, _, text = line.partition(" ")
    return Memory(name=name, text=text)


def _root(turn: Turn) -> Turn:
    return turn if turn.outer is None else _root(turn.outer.turn)


def _policy(turn: Turn) -> UserMemory:
    """Of the team that was asked: it is that one whose memories they are."""
    return _root(turn).team.spec.session.user_memory


def _team(turn: Turn) -> str:
    return f"teams/{_root(turn).team.metadata.name}"


def _request_id(call: Invocation) -> str:
    """The same in every attempt, so that a repeated call remembers once."""
    digest = hashlib.sha256(call.idempotency_key.encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))

"""What one member can do: search, and the tools that its manifest names."""

import collections
import hashlib
import re
from collections.abc import Sequence

from prometheus_client import Counter

from manifests import Knowledge, Member, ToolSource
from orchestrator.core import prompts
from orchestrator.core.agent import RESULT_LIMIT, Ability, Invocation, text_argument
from orchestrator.core.arguments import BadArguments
from orchestrator.core.chat import Tool
from orchestrator.core.memories import memory_abilities
from orchestrator.core.model import Question
from orchestrator.core.search import search
from orchestrator.core.tools import ToolFailed
from orchestrator.core.turn import Turn, together
from servicekit.counters import from_zero

TOOL_CALLS = Counter("agentteams_tool_calls_total", "Calls of tools of manifests", ["kind", "outcome"])
from_zero(TOOL_CALLS, kind=("mcp", "python"), outcome=("ok", "failed"))

_MAX_NAME = 64  # as the OpenAI API has it, with the letters below
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OTHER = re.compile(r"[^A-Za-z0-9_-]")


async def abilities_for(turn: Turn, member: Member, *, for_user: bool) -> list[Ability]:
    """All that a member may call; `for_user`: it speaks with the user itself.

    Raises:
        ServiceError: TOOL_FAILED: what a source offers cannot be found out.
    """
    spec = turn.team.spec
    abilities = []
    on_demand = [k for k in spec.knowledge if k.name in member.knowledge and k.search == "OnDemand"]
    if on_demand:
        abilities.append(_search(turn, on_demand))
    if for_user:
        abilities += memory_abilities(turn)
    sources = [source for source in spec.tools if source.name in member.tools]
    if any(source.builtin == "AskUser" for source in sources):
        abilities.append(_ask_user(turn))
    sources = [source for source in sources if source.builtin is None]
    if not sources:
        return abilities
    namespace = turn.team.metadata.namespace
    with turn.stages.stage("context_assembly"):
        offers = await together([turn.world.tools.offered(namespace, source) for source in sources])
    found = [(source, tool) for source, tools in zip(sources, offers, strict=True) for tool in tools]
    taken = [ability.tool.name for ability in abilities]
    names = _names([(source.name, tool.name) for source, tool in found], taken)
    abilities += [_tool(turn, source, tool, name) for (source, tool), name in zip(found, names, strict=True)]
    return abilities


def _search(turn: Turn, uses: Sequence[Knowledge]) -> Ability:
    async def call(made: Invocation) -> str:
        query = text_argument(made.arguments, "query")
        reports = [await search(turn, use, query, asked_by=made.call_id, member=made.member) for use in uses]
        return "\n\n".join(report.text for report in reports)

    return Ability(tool=prompts.search_tool([use.name for use in uses]), call=call, side_effects=False)


def _ask_user(turn: Turn) -> Ability:
    async def call(made: Invocation) -> str:
        choices = made.arguments.get("choices")
        question = Question(
            text=text_argument(made.arguments, "question"),
            choices=tuple(map(str, choices)) if isinstance(choices, list) else (),
        )
        return prompts.user_answer(await turn.inputs.ask(made.call_id, question, member=made.member))

    # Made of what the log holds: the question is not asked again, and to wait is no work.
    return Ability(tool=prompts.ask_user_tool(), call=call, side_effects=False, resumes=True)


def _tool(turn: Turn, source: ToolSource, tool: Tool, shown_as: str) -> Ability:
    kind = "mcp" if source.mcp is not None else "python"

    async def call(made: Invocation) -> str:
        try:
            text = await turn.world.tools.call(
                turn.team.metadata.namespace,
                source,
                tool.name,
                made.arguments,
                idempotency_key=made.idempotency_key,
            )
        except (ToolFailed, BadArguments):
            TOOL_CALLS.labels(kind, "failed").inc()
            raise
        TOOL_CALLS.labels(kind, "ok").inc()
        return prompts.tool_result(text, RESULT_LIMIT)

    shown = Tool(name=shown_as, description=tool.description, parameters=tool.parameters)
    needs_approval = source.mcp is not None and tool.name in source.mcp.require_approval
    return Ability(tool=shown, call=call, needs_approval=needs_approval)


def _names(offered: Sequence[tuple[str, str]], taken: Sequence[str]) -> list[str]:
    """A name for each tool (source, name), that models may be shown and that no other has."""
    count = collections.Counter([*taken, *(name for _, name in offered)])
    used = set(taken)
    names = []
    for source, name in offered:
        shown = name if count[name] == 1 and _NAME.fullmatch(name) else _OTHER.sub("_", f"{source}_{name}")
        if len(shown) > _MAX_NAME or shown in used:
            mark = hashlib.sha256(f"{source}/{name}".encode()).hexdigest()[:8]
            shown = f"{shown[: _MAX_NAME - 9]}_{mark}"
        used.add(shown)
        names.append(shown)
    return names

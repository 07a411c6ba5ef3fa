"""The older part of a conversation, summed up (docs/context.md)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from manifests import ModelConfig
from orchestrator.core import prompts
from orchestrator.core.chat import Prompt
from orchestrator.core.context import marks
from orchestrator.core.context.assembly import budget_tokens, complete
from orchestrator.core.context.budget import counting
from orchestrator.core.context.conversation import UNSUMMARIZED_MESSAGES, unsummarized
from orchestrator.core.context.fit import level_of
from orchestrator.core.context.tokens import MESSAGE_TOKENS, Measure, tokens
from orchestrator.core.model import HistorySummarized, Message
from orchestrator.core.recorded import own_step
from orchestrator.core.turn import Turn
from servicekit.counters import from_zero
from servicekit.errors import ServiceError

log = structlog.get_logger()

SUMMARIES = Counter("agentteams_history_summaries_total", "Summaries of conversations", ["outcome"])
from_zero(SUMMARIES, outcome=("ok", "failed"))

_STEP = own_step("summary#1")
_LIMIT_S = 60.0
_MAX_CHARS = 6_000
# Before what was loaded is all that is there: some runs may fail to sum up without losing a message.
_MAX_MESSAGES = UNSUMMARIZED_MESSAGES * 3 // 4
_PROMPT_TOKENS = 300  # of the instructions and the marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What is to be summed up, and by which model."""

    messages: Sequence[Message]
    config: ModelConfig


async def summary_due(turn: Turn) -> Due | None:
    """The part of the conversation that has grown too long; None: nothing has."""
    policy = turn.team.spec.session
    if not policy.summary.enabled:
        return None
    older = _older(unsummarized(turn.team, turn.history, turn.background), policy.history_runs)
    config = turn.find_model(turn.team.spec.model_config_ref.of(turn.team.metadata.namespace))
    if not older or config is None:
        return None
    measure = await turn.world.contexts.measure(config)
    size = await counting(measure, lambda: sum(_sizes(older, measure)))
    window = turn.world.contexts.window(config)
    trigger = min(policy.summary.trigger_tokens, window // 2 if window else policy.summary.trigger_tokens)
    return Due(messages=older, config=config) if size > trigger or len(older) > _MAX_MESSAGES else None


async def sum_up(turn: Turn, due: Due) -> None:
    """Sums up the older part of a conversation whose answer is stored already: a failure undoes nothing."""
    try:
        async with asyncio.timeout(_LIMIT_S):
            text = await _summary(turn, due)
    except (ServiceError, TimeoutError) as error:
        # The next run tries again, with what has come since.
        if turn.log.failure is None:
            log.warning("history_not_summarized", run=turn.log.run, error=str(error))
            SUMMARIES.labels("failed").inc()
        return
    through = due.messages[-1].sequence
    turn.log.emit(HistorySummarized(text=text, through_sequence=through))
    SUMMARIES.labels("ok").inc()


async def _summary(turn: Turn, due: Due) -> str:
    with turn.stages.stage("context_assembly"):
        before = turn.background.summary
        summary = f"The summary so far:\n{marks.summary_block(before.text)}\n\n" if before else ""
        measure = await turn.world.contexts.measure(due.config)
        room = budget_tokens(turn, due.config) - _PROMPT_TOKENS
        said = await counting(measure, lambda: _conversation(due.messages, summary, room, measure))
        conversation = [
            Prompt(role="system", content=prompts.SUMMARIZE),
            Prompt(role="user", content=f"{summary}What was said since:\n{said}\n\nWrite the summary."),
        ]
    done = await complete(turn, due.config, conversation, tools=(), must_answer=True, step=_STEP, member="")
    return marks.cut(done.text.strip(), _MAX_CHARS)


def _older(messages: Sequence[Message], history_runs: int) -> Sequence[Message]:
    """What comes before the last questions; the one that is answered now is one of them."""
    end = max(0, len(messages) - 2 * max(0, history_runs - 1))
    while end < len(messages) and messages[end].role == "assistant":
        end += 1  # an answer goes with its question
    return messages[:end]


def _conversation(messages: Sequence[Message], summary: str, room: int, measure: Measure) -> str:
    """Who said what, the longest cut so that all have room beside the summary so far."""
    sizes = _sizes(messages, measure)
    excess = sum(sizes) + tokens(summary, measure) - room
    level = level_of(sizes, excess) if excess > 0 else max(sizes)
    return marks.conversation_block(
        (message.role, marks.cut(message.content, len(message.content) * level // size))
        for message, size in zip(messages, sizes, strict=True)
    )


def _sizes(messages: Sequence[Message], measure: Measure) -> list[int]:
    return [MESSAGE_TOKENS + tokens(message.content, measure) for message in messages]

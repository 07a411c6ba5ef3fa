"""What a run knows before its question, besides the messages it was given."""

from dataclasses import dataclass

from orchestrator.core.model import HistorySummarized, Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """Shown to whoever is shown the conversation.

    Attributes:
        summary: Of the conversation before the messages; None: there is none.
        memories: What is remembered of the user and fits the question, best first.
        memories_lost: It could not be looked up.
    """

    summary: HistorySummarized | None = None
    memories: tuple[Memory, ...] = ()
    memories_lost: bool = False

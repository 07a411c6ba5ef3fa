"""One run as one client follows it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.core.errors import ApiError, run_failed
from gateway.core.model import (
    Answer,
    ModelCallEnded,
    PersonAnswered,
    PersonAsked,
    Run,
    RunEnded,
    RunItem,
    TextPiece,
)
from gateway.core.ports import Orchestrator
from gateway.core.render import extra_field
from gateway.core.transcript import TextGap, Transcript
from servicekit.errors import Internal

# A piece can be missing once when a stream is found again; more often is a bug of the orchestrator.
_MAX_GAPS = 3


class Turn:
    """Collects what a run says, and how it ended.

    Args:
        run: The run.
        items: What happens to it, from its beginning; closed by `pieces`.
    """

    def __init__(self, run: Run, items: AsyncGenerator[RunItem, None]) -> None:
        self.run = run
        self._items = items
        self._transcript = Transcript()
        self._answer: Answer | None = None
        self._ended: RunEnded | None = None
        self._asked: dict[str, str] = {}

    async def pieces(self, orchestrator: Orchestrator) -> AsyncGenerator[str, None]:
        """The text, piece by piece, until the run has ended.

        Raises:
            ServiceError: The run cannot be followed any more.
        """
        gaps = 0
        while self._ended is None:
            try:
                async with aclosing(self._items) as items:
                    async for item in items:
                        if isinstance(item, TextPiece):
                            text = self._transcript.add(item)
                        elif isinstance(item, Answer):
                            self._answer = item
                            text = self._transcript.finish(item.text)
                        elif isinstance(item, ModelCallEnded):
                            self._transcript.end_text()
                            continue
                        elif isinstance(item, PersonAsked):
                            self._asked[item.call_id] = item.what
                            continue
                        elif isinstance(item, PersonAnswered):
                            self._asked.pop(item.call_id, None)
                            continue
                        else:
                            self._ended = item
                            return
                        if text:
                            yield text
            except TextGap as error:
                gaps += 1
                if gaps == _MAX_GAPS:
                    raise Internal(f"text of {self.run.name} is missing", reason="INTERNAL") from error
                self._items = orchestrator.follow(self.run)

    @property
    def waits_for(self) -> str:
        """What the run needs of a person, in words; empty if nothing."""
        return ", ".join(f"{what} (call {call_id})" for call_id, what in self._asked.items())

    def result(self) -> RunEnded:
        """How the run ended, if it has an answer.

        Raises:
            ApiError: It has none; says why.
        """
        ended = self._ended
        if ended is None:
            raise _no_answer(self.run, 500, "has not ended", "internal")
        if ended.error is not None:
            raise run_failed(ended.error, run=self.run)
        if ended.state != "succeeded":
            raise _no_answer(self.run, 409, f"was {ended.state}", f"run_{ended.state}")
        return ended

    @property
    def text(self) -> str:
        """The whole answer."""
        return self._transcript.text if self._answer is None else self._answer.text

    def extra(self, *, streamed: bool) -> dict[str, object]:
        """The field `agentteams` of an answer."""
        return extra_field(
            run=self.run,
            citations=() if self._answer is None else self._answer.citations,
            ended=self.result(),
            answer_offset=self._transcript.answer_offset if streamed else 0,
        )


def _no_answer(run: Run, status: int, what: str, code: str) -> ApiError:
    return ApiError(
        status, f"The run {what} and has no answer ({run.name}).", code=code, retry=False, run=run
    )

"""What the steps of a workflow know of one another."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from manifests.expressions import Scope, as_text
from orchestrator.core.model import Evidence
from servicekit.errors import ServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a step came to.

    Attributes:
        output: JSON; None if nothing was done, or with an error.
        evidence: What was found on the way, by number.
        error: Why it failed, though the workflow goes on.
    """

    output: object = None
    evidence: tuple[Evidence, ...] = ()
    error: ServiceError | None = None

    @property
    def answer(self) -> str:
        """The output as a text."""
        return "" if self.output is None else as_text(self.output)


NOTHING = Outcome()


@dataclass(slots=True, kw_only=True)
class Frame:
    """What is in sight at one place of a workflow.

    Attributes:
        input: The question, or what a definition was given.
        outcomes: Of the steps in sight, by name.
        before: Of the step that ran last; None: there was none.
        iteration: Of the loop around; 0: there is none.
    """

    input: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    before: Outcome | None = None
    iteration: int = 0

    def inner(self) -> "Frame":
        """For steps within a step: what they come to is not seen outside."""
        return Frame(
            input=self.input, outcomes=dict(self.outcomes), before=self.before, iteration=self.iteration
        )


class Seen(Mapping[str, object]):
    """The variables of an expression, made only as they are asked for."""

    def __init__(self, scope: Scope, frame: Frame, *, run: str, team: str) -> None:
        self._scope = scope
        self._frame = frame
        self._own: dict[str, object] = {
            "input": frame.input,
            "iteration": frame.iteration,
            "run.name": run,
            "run.team": team,
        }

    def __getitem__(self, name: str) -> object:
        """A variable by its dotted name."""
        if name in self._own:
            return self._own[name]
        _, step, what = name.split(".")
        outcome = self._frame.outcomes.get(step, NOTHING)
        match what:
            case "output":
                return outcome.output
            case "answer":
                return outcome.answer
            case "error":
                return outcome.error.message if outcome.error is not None else ""
            case "evidence":
                return [
                    {
                        "number": e.number,
                        "title": e.chunk.title,
                        "document": e.chunk.document,
                        "text": e.chunk.text,
                        "score": float(e.chunk.score),
                    }
                    for e in outcome.evidence
                ]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        """All names."""
        return iter(self._scope.variables)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._scope.variables)

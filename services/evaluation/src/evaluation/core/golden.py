"""Golden sets of teams: questions whose sources and facts are known."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from evaluation.core.evaluator import Evaluator
from evaluation.core.model import Job, Record, Scores
from evaluation.core.ports import Asker
from servicekit import golden
from servicekit.context import current_caller
from servicekit.errors import DeadlineExceeded, ResourceExhausted, ServiceError, Unavailable

_SEPARATOR = "|"
_OUTAGES = (Unavailable, ResourceExhausted, DeadlineExceeded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, the documents that should be found, and what the answer should say."""

    id: str
    text: str
    sources: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one question. A share is None if nothing is expected, or it was not scored."""

    id: str
    run: str = ""
    sources_found: float | None = None
    facts_present: float | None = None
    faithfulness: float | None = None
    grounding: float | None = None
    error: str = ""
    missing_sources: tuple[str, ...] = ()
    missing_facts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What came of all questions; means are of those that have the share."""

    team_revision: str
    golden_set_sha256: str
    results: Sequence[Result] = field(default_factory=tuple)

    def mean(self, name: str) -> float | None:
        """Of the results' attribute of that name."""
        values = [value for one in self.results if (value := getattr(one, name)) is not None]
        return fmean(values) if values else None

    @property
    def failed(self) -> int:
        """Questions without an answer."""
        return sum(bool(one.error) for one in self.results)


def fingerprint(questions: Iterable[Question]) -> str:
    """The same for the same questions in any order."""
    return golden.fingerprint((q.id, q.text, q.sources, q.facts) for q in questions)


class GoldenRuns:
    """Asks a team the questions one after the other, as the current caller.

    Args:
        asker: Asks.
        evaluator: Scores the runs.
    """

    def __init__(self, *, asker: Asker, evaluator: Evaluator) -> None:
        self._asker = asker
        self._evaluator = evaluator

    async def run(
        self, team: str, questions: Sequence[Question], *, patient: bool = False
    ) -> AsyncIterator[Result]:
        """Yields what came of each; a question that fails costs no other.

        Args:
            patient: An outage is raised, for the whole to be done again, and is no bad answer.

        Raises:
            ServiceError: An outage, if `patient`.
        """
        for question in questions:
            yield await self._one(team, question, patient)

    async def _one(self, team: str, question: Question, patient: bool) -> Result:
        run = ""
        try:
            async for name in self._asker.ask(team, question.text):
                run = name
            caller = current_caller()
            job = Job(run=run, tenant=caller.tenant, user=caller.user, team=team, selection="ASKED")
            record, scores = await self._evaluator.evaluate(job)
        except ServiceError as error:
            if patient and isinstance(error, _OUTAGES):
                raise
            return Result(
                id=question.id,
                run=run,
                sources_found=0.0 if question.sources else None,
                facts_present=0.0 if question.facts else None,
                error=error.message[:500],
                missing_sources=question.sources,
                missing_facts=question.facts,
            )
        return result(question, record, scores)


def result(question: Question, record: Record, scores: Scores) -> Result:
    """Compares a run with what was expected of it."""
    missing_sources = tuple(source for source in question.sources if not _is_found(source, record))
    missing_facts = tuple(fact for fact in question.facts if not is_stated(fact, record.answer))
    return Result(
        id=question.id,
        run=record.run,
        sources_found=_share(question.sources, missing_sources),
        facts_present=_share(question.facts, missing_facts),
        faithfulness=scores.faithfulness,
        grounding=scores.grounding,
        error="" if scores.outcome in ("SCORED", "NOTHING_TO_SCORE") else scores.reason,
        missing_sources=missing_sources,
        missing_facts=missing_facts,
    )


def is_stated(fact: str, answer: str) -> bool:
    """Whether the answer has one of the alternatives, case and white space aside."""
    said = _plain(answer)
    return any(_plain(one) in said for one in fact.split(_SEPARATOR) if one.strip())


def _is_found(source: str, record: Record) -> bool:
    wanted = _plain(source)
    for chunk in record.chunks.values():
        title = _plain(chunk.title)
        # A source is a path below the indexed folder; a title may have more of the path, or only its end.
        if title == wanted or title.endswith(f"/{wanted}") or wanted.endswith(f"/{title}"):
            return True
    return False


def _share(expected: Sequence[str], missing: Sequence[str]) -> float | None:
    return 1 - len(missing) / len(expected) if expected else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())

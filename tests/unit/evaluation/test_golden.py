"""Golden sets of teams: what counts as found and as said, and what one bad question costs."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from evaluation.core.budget import MinuteBudget
from evaluation.core.evaluator import Evaluator
from evaluation.core.golden import (
    Evaluation,
    GoldenRuns,
    Question,
    Result,
    fingerprint,
    is_stated,
    result,
)
from evaluation.core.judge import Memory
from evaluation.core.model import Scores
from servicekit.context import Caller, scope
from servicekit.errors import Internal, ServiceError, Unavailable
from servicekit.testing import FakeClock
from tests.support.evaluation_fakes import FakeJudge, FakeReport, FakeRuns, FakeTeams, chunk, embed, record

WARRANTY = "The warranty of the lamp is two years."
SCORES = Scores(outcome="SCORED", evaluator="local", version="1", grounding=0.5)


def question(id_: str = "q1", *, sources: Sequence[str] = (), facts: Sequence[str] = ()) -> Question:
    return Question(id=id_, text=f"What is {id_}?", sources=tuple(sources), facts=tuple(facts))


@dataclass
class Asker:
    """Gives each question a run of its name; those in `errors` fail, with a run or without."""

    errors: dict[str, ServiceError] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def ask(self, team: str, text: str) -> AsyncIterator[str]:
        """See Asker."""
        self.asked.append((team, text))
        error = self.errors.get(text)
        if error is None or error.reason == "RUN_CANCELLED":
            yield f"runs/{text.rsplit(maxsplit=1)[-1].rstrip('?')}"
        if error is not None:
            raise error


def golden_runs(runs: FakeRuns, asker: Asker) -> GoldenRuns:
    evaluator = Evaluator(
        runs=runs,
        teams=FakeTeams(),
        judges=FakeJudge(),
        embedder=lambda name: embed,
        memory=Memory(most=10),
        budget=MinuteBudget(calls=100, tokens=10_000, clock=FakeClock()),
        report=FakeReport(),
    )
    return GoldenRuns(asker=asker, evaluator=evaluator)


async def ask(golden: GoldenRuns, *questions: Question) -> list[Result]:
    with scope(caller=Caller("acme", "ada", "evaluation"), timeout=timedelta(minutes=1)):
        return [one async for one in golden.run("helpdesk", questions)]


@pytest.mark.parametrize(
    ("fact", "answer", "stated"),
    [
        ("8080", "It listens on port 8080.", True),
        ("two   YEARS", "The warranty is two\nyears.", True),
        ("2 years|two years", "Two years [1].", True),
        ("three years", WARRANTY, False),
        ("| ", "anything", False),  # an alternative of nothing is in every answer
    ],
)
def test_a_fact_is_stated_by_one_of_its_alternatives(fact: str, answer: str, stated: bool) -> None:
    assert is_stated(fact, answer) == stated


@pytest.mark.parametrize(
    ("source", "title", "found"),
    [
        ("docs/api.md", "docs/api.md", True),
        ("docs/api.md", "handbook/docs/API.md", True),
        ("docs/api.md", "api.md", True),
        ("api.md", "docs/my-api.md", False),
        ("docs/api.md", "docs/api", False),
    ],
)
def test_a_source_is_found_by_its_path_or_the_end_of_it(source: str, title: str, found: bool) -> None:
    run = replace(record(WARRANTY), chunks={1: chunk(1, WARRANTY, title=title)})
    one = result(question(sources=[source]), run, SCORES)
    assert (one.sources_found, one.missing_sources) == ((1.0, ()) if found else (0.0, (source,)))


def test_shares_are_of_what_is_expected_and_none_where_nothing_is() -> None:
    run = record(WARRANTY, WARRANTY)
    wanted = question(sources=["handbook.md", "prices.md"], facts=["two years", "lamp", "red"])
    one = result(wanted, run, SCORES)
    assert one.sources_found == 0.5
    assert one.facts_present == pytest.approx(2 / 3)
    assert (one.missing_sources, one.missing_facts) == (("prices.md",), ("red",))
    assert (one.run, one.grounding, one.faithfulness, one.error) == ("runs/r1", 0.5, None, "")
    nothing = result(question(), run, SCORES)
    assert (nothing.sources_found, nothing.facts_present) == (None, None)


def test_a_run_that_could_not_be_scored_says_why_and_one_without_claims_is_none() -> None:
    failed = replace(SCORES, outcome="FAILED", reason="no judge", grounding=None)
    assert result(question(), record(WARRANTY), failed).error == "no judge"
    empty = replace(SCORES, outcome="NOTHING_TO_SCORE", reason="nothing is claimed", grounding=None)
    assert result(question(), record(""), empty).error == ""


def test_means_are_of_the_questions_that_have_the_share() -> None:
    results = [
        Result(id="a", sources_found=1.0, facts_present=0.5),
        Result(id="b", sources_found=0.5),
        Result(id="c", sources_found=0.0, error="no answer"),
    ]
    found = Evaluation(team_revision="r1", golden_set_sha256="s", results=results)
    assert (found.mean("sources_found"), found.mean("facts_present")) == (0.5, 0.5)
    assert (found.mean("faithfulness"), found.failed) == (None, 1)


def test_the_fingerprint_is_of_the_questions_in_any_order_and_of_all_that_they_say() -> None:
    first, second = question("a", sources=["x", "y"], facts=["1"]), question("b")
    same = fingerprint([first, second])
    assert same == fingerprint([second, replace(first, sources=("y", "x"))])
    for other in (
        replace(first, text="other"),
        replace(first, id="c"),
        replace(first, facts=("2",)),
        replace(first, sources=("x",)),
        replace(first, sources=("x", "y"), facts=("1", "1")),
    ):
        assert fingerprint([other, second]) != same


async def test_a_question_that_fails_costs_no_other_and_counts_as_nothing_found() -> None:
    runs = FakeRuns(records={"runs/q1": record(WARRANTY, WARRANTY, run="runs/q1")})
    asker = Asker(
        {
            "What is q2?": Unavailable("the model is away", reason="MODEL_UNAVAILABLE"),
            "What is q3?": Internal("the run was cancelled", reason="RUN_CANCELLED"),
        }
    )
    expected = {"sources": ["handbook.md"], "facts": ["two years"]}
    found = await ask(golden_runs(runs, asker), *(question(f"q{n}", **expected) for n in (2, 1, 3)))
    assert [team for team, _ in asker.asked] == ["helpdesk"] * 3
    down, good, cancelled = found
    assert (good.id, good.run, good.sources_found, good.facts_present) == ("q1", "runs/q1", 1.0, 1.0)
    assert good.grounding is not None
    assert (down.id, down.run, down.error) == ("q2", "", "the model is away")
    assert (cancelled.run, cancelled.error) == ("runs/q3", "the run was cancelled")
    for one in (down, cancelled):
        assert (one.sources_found, one.facts_present) == (0.0, 0.0)
        assert (one.missing_sources, one.missing_facts) == (("handbook.md",), ("two years",))
    [(job, _)] = runs.stored
    assert (job.run, job.tenant, job.user, job.team, job.selection) == (
        "runs/q1", "acme", "ada", "helpdesk", "ASKED",
    )  # fmt: skip

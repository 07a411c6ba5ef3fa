"""Workflows: attempts, failures, bounds, and what steps see of one another."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from manifests import AgentTeam
from orchestrator.core.model import (
    ContextTrimmed,
    Event,
    MessageCompleted,
    ModelCallFinished,
    RunFinished,
    SearchResult,
    StepFinished,
    StepStarted,
)
from orchestrator.core.run import execute
from servicekit.errors import Unavailable
from tests.support.fake_knowledge import ok
from tests.support.fake_models import Call, Script, says
from tests.support.orchestrator_fakes import Bench, knowledge, of_type, team

pytestmark = pytest.mark.looptime

BROKEN = Unavailable("no endpoint", reason="MODEL_UNAVAILABLE")
MEMBERS = ({"name": "ann", "role": "ann"}, {"name": "ben", "role": "ben"})
Step = dict[str, Any]


def workflow(
    *steps: Step, members: Sequence[Step] = MEMBERS, limits: Mapping[str, int] | None = None, **more: Any
) -> AgentTeam:
    """A team whose models are called once for each answer."""
    spec = {key: more.pop(key) for key in ("knowledge", "sharing") if key in more}
    return team(*members, mode="Workflow", workflow={"steps": steps, **more}, limits=limits or {}, **spec)


def member(name: str, task: str = "", who: str = "ann", **more: Any) -> Step:
    return {"name": name, "member": who, "task": task or f"do {name}", **more}


class Played:
    """A run of a workflow that has ended."""

    def __init__(self, bench: Bench) -> None:
        self.log: list[Event] = bench.store.log["runs/r1"]
        self.calls = bench.models.calls

    @property
    def steps(self) -> list[Any]:
        return [event.step for event in self.log]

    @property
    def end(self) -> RunFinished:
        (end,) = [s for s in self.steps if isinstance(s, RunFinished)]
        return end

    @property
    def answer(self) -> str:
        return next((s.message.content for s in of_type(self.steps, MessageCompleted)), "")

    @property
    def begun(self) -> list[tuple[str, int]]:
        return [(s.path, s.attempt) for s in of_type(self.steps, StepStarted)]

    def ended(self, path: str) -> StepFinished:
        return [s for s in self.steps if isinstance(s, StepFinished) and s.path == path][-1]

    @property
    def failure(self) -> tuple[str, str, str]:
        """Reason, failed step and message of the run's end."""
        assert self.end.error is not None
        return self.end.error.reason, self.end.error.metadata.get("step", ""), self.end.error.message


async def play(of: AgentTeam, choose: Any, bench: Bench | None = None) -> Played:
    bench = bench or Bench()
    bench.catalogue.models[0] = bench.catalogue.models[0].model_copy(
        update={
            "spec": bench.catalogue.models[0].spec.model_copy(
                update={"limits": bench.catalogue.models[0].spec.limits.model_copy(update={"max_retries": 0})}
            )
        }
    )
    bench.catalogue.all_teams.append(of)
    bench.models.choose = choose
    turn = bench.turn(of)
    await execute(turn)
    await turn.log.close()
    return Played(bench)


def echo(call: Call) -> Script:
    """Answers with its task in brackets."""
    return says(f"[{call.last.rpartition('Your task: ')[2].split(chr(10))[0]}]")


def failing(*parts: str, times: int = 99) -> Any:
    """A model that breaks for requests with one of these texts, so often."""
    broken = dict.fromkeys(parts, times)

    def choose(call: Call) -> Script:
        for part, left in broken.items():
            if part in call.last and left:
                broken[part] -= 1
                return [BROKEN]
        return echo(call)

    return choose


# --- attempts -----------------------------------------------------------------------


async def test_a_step_is_tried_again_with_a_pause_that_doubles() -> None:
    step = member("a", retries={"maxAttempts": 4, "backoffSeconds": 10})
    began = asyncio.get_running_loop().time()
    played = await play(workflow(step), failing("do a", times=3))
    assert asyncio.get_running_loop().time() - began == pytest.approx(10 + 20 + 40, abs=1)
    assert played.begun == [("a", 1), ("a", 2), ("a", 3), ("a", 4)]
    assert [s.step for s in of_type(played.steps, ModelCallFinished)] == ["@a~4#1"]
    failed = [s.error.reason for s in of_type(played.steps, StepFinished) if s.error]
    assert failed == ["MODEL_UNAVAILABLE"] * 3
    assert played.answer == "[do a]"


async def test_a_run_fails_with_the_path_of_the_innermost_step_that_did() -> None:
    inner = {
        "name": "c",
        "loop": {"maxIterations": 2, "steps": [member("x"), member("y", "{{ iteration }}th")]},
    }
    played = await play(workflow({"name": "p", "parallel": {"steps": [inner]}}), failing("2th"))
    assert played.failure == ("STEP_FAILED", "p/c[2]/y", 'step "p/c[2]/y" failed: no endpoint')
    assert played.end.state == "FAILED"
    assert played.end.error is not None
    assert played.end.error.metadata["cause"] == "MODEL_UNAVAILABLE"
    assert played.ended("p/c").error is not None


async def test_a_block_that_is_tried_again_does_its_steps_again_under_other_names() -> None:
    block = {
        "name": "b",
        "retries": {"maxAttempts": 2, "backoffSeconds": 0},
        "condition": {"expression": "true", "then": [member("x"), member("y")]},
    }
    played = await play(workflow(block), failing("do y", times=1))
    assert played.begun == [("b", 1), ("b/x", 1), ("b/y", 1), ("b", 2), ("b~2/x", 1), ("b~2/y", 1)]
    assert played.answer == "[do y]"


async def test_an_attempt_that_takes_too_long_has_failed() -> None:
    step = member("slow", timeoutSeconds=5, retries={"maxAttempts": 2, "backoffSeconds": 0})
    scripts = [[60.0, *says("late")], says("in time")]
    played = await play(workflow(step), lambda _: scripts.pop(0))
    (first, second) = of_type(played.steps, StepFinished)
    assert first.error.message == "it took longer than its timeoutSeconds, 5 s"
    assert second.output == "in time"
    assert played.answer == "in time"


async def test_the_time_of_the_run_is_up_whatever_steps_may_take() -> None:
    of = workflow(member("slow", timeoutSeconds=500, onFailure="Continue"), limits={"runTimeoutSeconds": 20})
    played = await play(of, lambda _: [60.0, *says("late")])
    assert played.failure[0] == "RUN_TIMEOUT"


# --- failures that the workflow goes on after ------------------------------------------


async def test_a_workflow_may_go_on_after_a_failure_and_know_of_it() -> None:
    of = workflow(
        member("a", onFailure="Continue"),
        member("b", "{{ steps.a.error }}|{{ steps.a.answer }}|{{ steps.a.output == null }}"),
    )
    played = await play(of, failing("do a"))
    assert played.answer == "[no endpoint||true]"
    assert played.ended("a").continued
    assert played.end.state == "SUCCEEDED"


async def test_a_branch_may_fail_beside_others_and_its_error_is_that_of_the_block() -> None:
    branches = [member("x", onFailure="Continue"), member("y")]
    of = workflow(
        {"name": "p", "parallel": {"steps": branches}},
        member("z", "{{ steps.p.output.y }} {{ steps.p.output.x == null }} {{ steps.p.error }}"),
    )
    played = await play(of, failing("do x"))
    assert played.answer == "[[do y] true no endpoint]"


async def test_a_workflow_without_an_answer_is_a_failure() -> None:
    played = await play(workflow(member("a", onFailure="Continue")), failing("do a"))
    assert played.failure == ("STEP_FAILED", "a", "the workflow came to no answer: no endpoint")
    empty = workflow(member("a"), {"name": "c", "condition": {"expression": "false", "then": [member("x")]}})
    played = await play(empty, echo)
    assert played.failure == (
        "STEP_FAILED",
        "c",
        "the workflow came to no answer: its last step has no output",
    )


async def test_a_limit_of_the_run_ends_it_past_all_attempts_and_continuing() -> None:
    step = member("a", onFailure="Continue", retries={"maxAttempts": 5})
    of = workflow(step, member("b"), limits={"maxTokensPerRun": 256})
    played = await play(of, lambda _: says("x", tokens=300))
    assert played.failure[0] == "RUN_LIMIT_REACHED"
    assert played.begun == [("a", 1)]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            {
                "name": "r",
                "router": {
                    "expression": "steps.a.answer",
                    "choices": [{"when": "b", "steps": [member("x")]}],
                },
            },
            'no choice is for "[do a]", and there is no default',
        ),
        (
            {"name": "c", "condition": {"expression": "steps.a.output.ready", "then": [member("x")]}},
            "its expression has no value: Applying SELECT to non-message type",
        ),
        (
            {"name": "c", "condition": {"expression": "dyn('x') ? true : false", "then": [member("x")]}},
            "its expression has no value: ",
        ),
        (
            {"name": "c", "condition": {"expression": "steps.a.output", "then": [member("x")]}},
            "its expression has no value: gives '[do a]', and true or false is needed",
        ),
        (
            member("t", "{{ steps.a.evidence[3].title }}"),
            "its task or input has no value: Index error: index=3 size=0",
        ),
        (member("t", "{{ 0.0 / 0.0 }}"), "its task or input has no value: gives nan, which JSON has not"),
        (
            {"name": "l", "loop": {"until": "1 / (iteration - 1) > 0", "steps": [member("x")]}},
            "its until has no value: divide by zero",
        ),
    ],
)
async def test_an_expression_without_a_value_fails_its_step_at_once(step: Step, message: str) -> None:
    step["retries"] = {"maxAttempts": 3, "backoffSeconds": 0}
    played = await play(workflow(member("a"), step), echo)
    reason, path, text = played.failure
    assert (reason, path) == ("STEP_FAILED", step["name"])
    assert text.startswith(f'step "{path}" failed: {message}')
    assert played.begun.count((path, 1)) == 1
    assert (path, 2) not in played.begun


async def test_an_output_that_is_too_large_is_a_failure_that_says_so() -> None:
    of = workflow(
        {"name": "p", "parallel": {"steps": [member("x"), member("y")]}}, limits={"maxTokensPerRun": 10_000}
    )
    played = await play(of, lambda _: says("x" * 140_000))
    reason, path, text = played.failure
    assert (reason, path) == ("STEP_FAILED", "p")
    assert "its output has 280" in text
    assert "262144 is the most" in text


@pytest.mark.parametrize(
    "last",
    [
        member("b", "{{ steps.a.answer }}" * 3),
        member("b", input="[steps.a.answer] + [steps.a.answer, steps.a.answer]"),
    ],
)
async def test_an_input_that_is_too_large_is_a_failure_before_anybody_is_asked(last: Step) -> None:
    played = await play(workflow(member("a"), last), lambda _: says("x" * 90_000))
    reason, path, text = played.failure
    assert (reason, path) == ("STEP_FAILED", "b")
    assert "its input has 270" in text
    assert len(played.calls) == 1
    whole = workflow(member("a"), output="steps.a.answer + steps.a.answer + steps.a.answer")
    played = await play(whole, lambda _: says("x" * 90_000))
    assert "its workflow's output has 270000 bytes" in played.failure[2]


# --- bounds -----------------------------------------------------------------------------


async def test_a_loop_ends_after_its_most_iterations() -> None:
    loop = {
        "name": "l",
        "loop": {"until": "false", "maxIterations": 7, "steps": [member("x", "{{ iteration }}")]},
    }
    played = await play(workflow(loop), echo)
    assert len(played.calls) == 7
    assert played.answer == "[7]"


async def test_loops_within_loops_end_at_the_limit_of_steps() -> None:
    inner = {
        "name": "b",
        "loop": {"maxIterations": 100, "steps": [{"name": "c", "workflow": {"name": "idle"}}]},
    }
    idle = {"name": "c", "condition": {"expression": "false", "then": [member("x")]}}
    of = workflow(
        {"name": "a", "loop": {"maxIterations": 100, "steps": [inner]}},
        definitions=[{"name": "idle", "steps": [idle]}],
    )
    played = await play(of, echo)
    reason, _, text = played.failure
    assert reason == "RUN_LIMIT_REACHED"
    assert "more than 1000 steps" in text
    assert len(played.begun) == 1000


async def test_eight_branches_run_at_a_time() -> None:
    now = most = 0
    gate = asyncio.Event()

    def choose(call: Call) -> Script:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 8:
            asyncio.get_running_loop().call_later(5, gate.set)
        return [gate, *says("done")]

    branches = [member(f"s{n}") for n in range(16)]
    played = await play(workflow({"name": "p", "parallel": {"steps": branches}}), choose)
    assert played.end.state == "SUCCEEDED"
    assert len(played.calls) == 16
    first_end = next(n for n, s in enumerate(played.steps) if isinstance(s, StepFinished))
    assert sum(isinstance(s, StepStarted) for s in played.steps[:first_end]) == 1 + 8


async def test_a_branch_that_fails_stops_the_others() -> None:
    def choose(call: Call) -> Script:
        return [1.0, BROKEN] if "do x" in call.last else [3600.0, *says("late")]

    of = workflow(
        {"name": "p", "parallel": {"steps": [member("y"), member("x")]}}, limits={"runTimeoutSeconds": 9000}
    )
    began = asyncio.get_running_loop().time()
    played = await play(of, choose)
    assert played.failure[1] == "p/x"
    assert asyncio.get_running_loop().time() - began < 5


# --- what steps see -------------------------------------------------------------------------


async def test_a_member_is_shown_the_output_before_it_unless_it_says_what_it_needs() -> None:
    of = workflow(
        member("a"),
        {"name": "skip", "condition": {"expression": "false", "then": [member("x")]}},
        member("b"),
        member("c", "with {{ steps.a.answer }}"),
        member("d", input="{'both': [steps.a.output, 1.0]}"),
    )
    played = await play(of, echo)
    asked = [call.last for call in played.calls]
    assert "<report" not in asked[0]
    assert 'Your task: do b\n\n<report by="input">\n[do a]\n</report>' in asked[1]
    assert "<report" not in asked[2]
    assert '<report by="input">\n{"both": ["[do a]", 1]}\n</report>' in asked[3]
    started = {s.path: s.input for s in of_type(played.steps, StepStarted)}
    assert started["d"] == {"task": "do d", "input": {"both": ["[do a]", 1]}}


async def test_evidence_is_that_of_the_step_and_of_all_within_it() -> None:
    bench = Bench()
    bench.knowledge.results = [ok("a", "b"), ok("c")]
    of = workflow(
        {"name": "p", "parallel": {"steps": [member("x", who="ann"), member("y", who="ben")]}},
        member("z", "{{ steps.p.evidence.map(e, e.number) }} {{ steps.p.evidence[0].title }}", who="carl"),
        members=(*({"name": n, "knowledge": ["docs"]} for n in ("ann", "ben")), {"name": "carl"}),
        knowledge=knowledge(search="Always"),
        sharing={"evidenceReuse": {"policy": "Never"}},
    )
    played = await play(of, echo, bench)
    assert played.answer == "[[1, 2, 3] a.md]"


async def test_the_last_step_writes_the_answer_as_the_team() -> None:
    of = workflow(member("a"), {"name": "c", "condition": {"expression": "true", "then": [member("b")]}})
    played = await play(of, echo)
    calls = {e.step.step: e.member for e in played.log if isinstance(e.step, ModelCallFinished)}
    assert calls == {"@a#1": "ann", "@c/b#1": ""}


async def test_a_team_within_the_workflow_has_its_own_workflow() -> None:
    bench = Bench()
    bench.catalogue.all_teams = [
        workflow(
            member("one", "do {{ input }}"), member("two", "then {{ steps.one.answer }}"), members=MEMBERS[:1]
        )
    ]
    outer = team(
        {"name": "desk", "teamRef": {"name": "helpdesk"}},
        {"name": "ann"},
        name="outer",
        mode="Workflow",
        workflow={"steps": [member("ask", "go", who="desk"), member("end", "{{ steps.ask.answer }}")]},
    )
    played = await play(outer, echo, bench)
    assert [path for path, _ in played.begun] == ["ask", "@ask@one", "@ask@two", "end"]
    assert [s.step for s in of_type(played.steps, ModelCallFinished)] == [
        "@ask@one#1",
        "@ask@two#1",
        "@end#1",
    ]
    assert played.answer == "[[then [do go]]]"
    assert not list(of_type(played.steps, ContextTrimmed))


async def test_without_any_document_the_run_says_so_instead_of_guessing() -> None:
    bench = Bench()
    bench.knowledge.results = [SearchResult(outcome="EMPTY", ready_documents=0)]
    of = workflow(
        member("a", retries={"maxAttempts": 3}, onFailure="Continue"),
        member("b"),
        members=({"name": "ann", "knowledge": ["docs"]},),
        knowledge=knowledge(search="Always"),
    )
    played = await play(of, echo, bench)
    assert played.end.state == "SUCCEEDED"
    assert 'The knowledge base "docs" has no documents yet' in played.answer
    assert played.calls == []

"""Runs that need a person: what the commands show, ask, and send."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from agentteams.orchestrator.v1.orchestrator_service_pb2 import RunItem
from agentteams.session.v1 import run_pb2
from google.protobuf.json_format import ParseDict

from agentteams_cli.attending import Attended
from agentteams_cli.client import StreamItem
from agentteams_cli.errors import Waiting
from agentteams_cli.steps import step_text
from tests.unit.agentteams_cli.fakes import STALL, Run, Scenario, run, services

__all__ = ["run", "services"]

WAITING, RUNNING = run_pb2.RUN_STATE_WAITING, run_pb2.RUN_STATE_RUNNING


def event(sequence: int = 2, member: str = "", **kind: Any) -> run_pb2.RunEvent:
    return ParseDict({"sequence": sequence, "member": member} | kind, run_pb2.RunEvent())


def approval(call_id: str = "#1.1", sequence: int = 2) -> run_pb2.RunEvent:
    asked = {"call_id": call_id, "approval": {"tool": "refund", "arguments": {"amount": 20}}}
    return event(sequence, input_requested=asked)


QUESTION = event(
    2, input_requested={"call_id": "#1.2", "question": {"text": "Which year?", "choices": ["2025", "2026"]}}
)
DONE = event(9, run_finished={"state": "RUN_STATE_SUCCEEDED"})


# --- in words ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (approval(), "leader: waits for approval: refund(amount='20.0')  [#1.1]"),
        (QUESTION, "leader: asks you: Which year? (2025 | 2026)  [#1.2]"),
        (
            event(
                input_provided={
                    "input": {"user": "ada", "decision": {"approved": False, "reason": "too much"}}
                }
            ),
            "leader: ada refused: too much",
        ),
        (event(input_provided={"input": {"user": "ada", "answer": "2026"}}), "leader: ada answered: 2026"),
        (event(input_provided={"expired": True}), "leader: nobody answered in time"),
        (
            event(step_started={"path": "refine[2]/draft", "kind": "member", "attempt": 2}),
            "leader: step refine[2]/draft (member, attempt 2)",
        ),
        (event(step_finished={"path": "draft", "output": "a text"}), "leader: step draft done: a text"),
        (
            event(step_finished={"path": "draft", "error": {"message": "down"}, "continued": True}),
            "leader: step draft failed, goes on: down",
        ),
        (
            event(
                tasks_changed={
                    "tasks": [
                        {"id": "t1", "text": "Look", "member": "ann", "state": "STATE_DONE"},
                        {"id": "t2", "text": "Write", "member": "bob", "state": "STATE_SKIPPED"},
                    ]
                }
            ),
            "leader: tasks: [x] t1 ann: Look, [-] t2 bob: Write",
        ),
        (
            event(
                team_called={
                    "namespace": "team-a",
                    "team": "teams/desk",
                    "run": "runs/r9",
                    "state": "RUN_STATE_SUCCEEDED",
                    "usage": {"model_calls": 2},
                }
            ),
            "leader: team team-a/desk succeeded (runs/r9, 2 model calls there)",
        ),
        (
            event(
                guardrail_triggered={
                    "guardrail": "PII",
                    "place": "PLACE_TOOL_RESULT",
                    "action": "ACTION_MASK",
                    "count": 2,
                    "kinds": ["EMAIL_ADDRESS"],
                }
            ),
            "leader: guardrail PII on the tool result: 2 found (EMAIL_ADDRESS), mask",
        ),
        (
            event(
                context_trimmed={
                    "budget_tokens": 600,
                    "needed_tokens": 900,
                    "trimmed": [{"kind": "history", "count": 2, "tokens": 320}],
                }
            ),
            "leader: the prompt needed 900 of 600 tokens; left out: 2 history (320 tokens)",
        ),
        (
            event(
                model_call_finished={
                    "model": "m",
                    "cost_micros": 1250,
                    "currency": "EUR",
                    "fallen_back_from": [{"model_config": "modelConfigs/big"}],
                }
            ),
            "leader: model m: 0 tokens in, 0 out, 0.0 ms, 0.001250 EUR (instead of big)",
        ),
        (
            event(run_resumed={"attempt": 2, "repeated_calls": ["#1.1"]}),
            "leader: goes on after an interruption (attempt 2); made again: #1.1",
        ),
        (
            event(
                member="ann",
                evidence_retrieved={
                    "query": "why",
                    "source": "SOURCE_SEARCH",
                    "outcome": "OUTCOME_OK",
                    "corrected_query": "reason",
                    "grade": "GRADE_WEAK",
                    "quarantined_chunks": 1,
                    "evidence": [{"number": 1}],
                },
            ),
            "ann: searched 'why', then 'reason': 1 chunks [1], weak, 1 kept out",
        ),
    ],
)
def test_every_step_is_a_line(step: run_pb2.RunEvent, text: str) -> None:
    assert step_text(step) == text


# --- asking -----------------------------------------------------------------------


@dataclass
class FakeRuns:
    """Runs that wait until somebody has said something to each of their calls."""

    asked: list[run_pb2.RunEvent]
    states: list[int] = field(default_factory=lambda: [WAITING])
    said: list[tuple[str, object]] = field(default_factory=list)
    provided: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, run: str) -> AsyncIterator[StreamItem]:
        for step in self.asked:
            yield step
        await self.provided.wait()
        yield DONE

    async def run(self, name: str) -> run_pb2.Run:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return run_pb2.Run(name=name, state=state)  # type: ignore[arg-type]

    async def approve(self, run: str, call_id: str, *, approved: bool, reason: str = "") -> run_pb2.Run:
        return self._hear(call_id, approved)

    async def answer_question(self, run: str, call_id: str, answer: str) -> run_pb2.Run:
        return self._hear(call_id, answer)

    def _hear(self, call_id: str, said: object) -> run_pb2.Run:
        self.said.append((call_id, said))
        if len(self.said) == len(self.asked):
            self.provided.set()
        return run_pb2.Run()


class Ada:
    async def decide(self, asked: run_pb2.ToolApprovalRequest) -> bool:
        return asked.tool == "refund"

    async def answer(self, asked: run_pb2.UserQuestion) -> str:
        return asked.choices[-1]


@pytest.mark.looptime
async def test_whoever_is_there_is_asked_when_nothing_else_is_left_to_do() -> None:
    runs = FakeRuns([approval(), QUESTION], states=[RUNNING, RUNNING, WAITING])
    followed = [item async for item in Attended(runs, "runs/r1", Ada()).items()]
    assert followed == [approval(), QUESTION, DONE]
    assert runs.said == [("#1.1", True), ("#1.2", "2026")]


@pytest.mark.looptime
async def test_where_nobody_is_the_command_says_how_to_answer_and_ends() -> None:
    with pytest.raises(Waiting, match="waits for approval of refund") as caught:
        [item async for item in Attended(FakeRuns([approval()]), "runs/r1", None).items()]
    assert caught.value.fix == (
        "`agentteams runs approve runs/r1` (or reject), then `agentteams runs follow runs/r1`"
    )


@pytest.mark.looptime
async def test_what_was_answered_before_is_not_asked_again() -> None:
    before = event(3, input_provided={"input": {"call_id": "#1.1", "decision": {"approved": True}}})
    runs = FakeRuns([approval(), before], states=[WAITING])
    asyncio.get_running_loop().call_later(5, runs.provided.set)
    assert len([item async for item in Attended(runs, "runs/r1", None).items()]) == 3


# --- commands ---------------------------------------------------------------------


def test_chat_without_a_terminal_ends_with_a_code_of_its_own(run: Run, services: Scenario) -> None:
    services.stream = [RunItem(event=approval()), STALL]
    services.runs = [run_pb2.Run(name="runs/r1", state=WAITING)]
    result = run("chat", "docs-team", "give it back")
    assert result.exit_code == 4
    assert "`agentteams runs approve runs/r1`" in result.stderr


def test_the_one_thing_that_a_run_waits_for_needs_no_name(run: Run, services: Scenario) -> None:
    services.events = [approval("#1.1", 2)]
    refused = json.loads(run("runs", "reject", "r1", "--reason", "no", "--output", "json").stdout)
    assert refused == {"run": "runs/r1", "call_id": "#1.1", "approved": False}
    [sent] = services.inputs
    assert (sent.run, sent.call_id, sent.decision.approved) == ("runs/r1", "#1.1", False)
    assert sent.decision.reason == "no"


def test_of_several_one_must_be_named(run: Run, services: Scenario) -> None:
    services.events = [approval("#1.1", 2), approval("#1.2", 3)]
    result = run("runs", "approve", "r1")
    assert (result.exit_code, services.inputs) == (2, [])
    assert "waits for several: #1.1, #1.2" in result.stderr
    assert run("runs", "approve", "r1", "#1.2").exit_code == 0
    assert services.inputs[0].decision.approved


def test_an_answer_to_a_run_that_asks_nothing(run: Run, services: Scenario) -> None:
    services.events = [approval()]
    result = run("runs", "answer", "r1", "2026")
    assert result.exit_code == 2
    assert "runs/r1 waits for no question" in result.stderr


def test_runs_in_a_state(run: Run, services: Scenario) -> None:
    services.runs = [
        run_pb2.Run(name="runs/r1", state=WAITING),
        run_pb2.Run(name="runs/r2", state=RUNNING),
    ]
    listed = json.loads(run("runs", "list", "--in-state", "waiting", "--output", "json").stdout)
    assert [r["run"] for r in listed["runs"]] == ["runs/r1"]


def test_cancel(run: Run, services: Scenario) -> None:
    assert run("runs", "cancel", "r1").exit_code == 0
    assert services.cancelled == ["runs/r1"]

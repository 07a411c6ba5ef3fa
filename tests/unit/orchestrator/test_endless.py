"""A leader that delegates and delegates: what ends it, and what the user sees."""

import pytest

from orchestrator.core.model import MemberFinished, RunFinished
from tests.support.fake_models import Call, Script, delegates, says
from tests.support.one_run import answer, one, play
from tests.support.orchestrator_fakes import Bench, of_type, team

pytestmark = pytest.mark.looptime

MEMBERS = ({"name": "ann"}, {"name": "ben"})


def never_answers(call: Call) -> Script:
    """Delegates whatever it is told; members say something."""
    return delegates(("ann", "look again"), ("ben", "look again")) if call.tools else says("I looked.")


def answers_when_it_must(call: Call) -> Script:
    """Delegates for as long as it may."""
    return says("That is all.") if call.must_answer else never_answers(call)


async def test_a_loop_of_delegations_ends_with_the_limit_that_it_reached(bench: Bench) -> None:
    bench.models.choose = never_answers
    steps = await play(bench, team(*MEMBERS, limits={"maxTurns": 4, "maxToolCalls": 100}))
    end = one(steps, RunFinished)
    assert (end.state, end.error.reason, end.error.metadata["limit"]) == (
        "FAILED",
        "RUN_LIMIT_REACHED",
        "maxTurns",
    )
    assert "(limits.maxTurns)" in end.error.message
    # The last reply was not followed any more; what the members did until then is in the log.
    assert len(list(of_type(steps, MemberFinished))) == 2 * 3
    assert len(bench.models.calls) == 4 + 6


async def test_a_leader_is_made_to_answer_when_its_tool_calls_are_used_up(bench: Bench) -> None:
    bench.models.choose = answers_when_it_must
    steps = await play(bench, team(*MEMBERS, limits={"maxTurns": 50, "maxToolCalls": 5}))
    assert one(steps, RunFinished).state == "SUCCEEDED"
    assert answer(steps) == "That is all."
    assert len(list(of_type(steps, MemberFinished))) == 5
    assert one(steps, RunFinished).summary.usage.tool_calls == 5

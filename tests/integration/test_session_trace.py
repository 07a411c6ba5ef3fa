"""Where the spans of a run belong is stored with its first event, and given to whoever goes on with it."""

import pytest
from agentteams.session.v1 import run_pb2
from agentteams.session.v1 import session_service_pb2 as pb

from tests.integration.test_session_user_data import Client, client, wrong_field
from tests.support.session_service import begin
from tests.support.sessions import databases, migrated_file

__all__ = ["client", "databases", "migrated_file"]

PARENT = f"00-{'1' * 32}-{'2' * 16}-01"


async def started(client: Client, run: run_pb2.Run) -> run_pb2.RunStarted:
    listed = await client.ListRunEvents(pb.ListRunEventsRequest(run=run.name))
    event: run_pb2.RunEvent = listed.events[0]
    return event.run_started


async def test_the_trace_of_a_run_is_in_its_first_event(client: Client) -> None:
    trace = run_pb2.TraceContext(trace_parent=PARENT, parent_span="3" * 16)
    begun = await client.BeginRun(begin(trace=trace))
    assert begun.run_started.run_started.trace == trace
    assert (await started(client, begun.run)).trace == trace


async def test_a_run_that_nobody_traces_has_none(client: Client) -> None:
    begun = await client.BeginRun(begin())
    assert not (await started(client, begun.run)).HasField("trace")


async def test_a_repeated_call_is_the_same_whoever_traces_it(client: Client) -> None:
    request = begin(trace=run_pb2.TraceContext(trace_parent=PARENT))
    first = await client.BeginRun(request)
    request.trace.trace_parent = PARENT.replace("1", "4")
    assert (await client.BeginRun(request)).run.name == first.run.name
    assert (await started(client, first.run)).trace.trace_parent == PARENT


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("trace_parent", "x" * 55),
        ("trace_parent", PARENT + "-more"),
        ("trace_parent", PARENT.upper().replace("1", "A")),
        ("parent_span", "3" * 15),
        ("parent_span", "z" * 16),
    ],
)
async def test_what_is_no_trace_is_refused(client: Client, field: str, wrong: str) -> None:
    request = begin(trace=run_pb2.TraceContext(**{field: wrong}))
    assert await wrong_field(client.BeginRun(request)) == f"trace.{field}"

"""What the suites of runs in a session store share."""

from datetime import timedelta

from session.core.model import AcquiredRun, BegunRun, BusyPolicy, Lease, RunState
from tests.support.session_store import ADA, Kit, all_messages, answer, finish

AT = Lease(owner="orchestrator-1", duration=timedelta(seconds=30), address="10.0.0.1:50054")
GIVEN_BACK = Lease(owner="orchestrator-1", duration=timedelta(0))
REJECT, ENQUEUE, INTERRUPT = BusyPolicy.REJECT, BusyPolicy.ENQUEUE, BusyPolicy.INTERRUPT


async def end(kit: Kit, run: AcquiredRun | BegunRun, text: str = "because") -> AcquiredRun | None:
    """Answers a run and ends it."""
    last = (await kit.store.get_run(ADA, run.run.id)).last_sequence
    done = await kit.store.append_events(
        ADA,
        run.run.id,
        fencing_token=run.fencing_token,
        events=[answer(last + 1, text), finish(last + 2)],
    )
    return done.next_run


async def texts(kit: Kit, session: str) -> list[str]:
    """The conversation; its numbers have no gap."""
    messages = await all_messages(kit.store, ADA, session)
    assert [m.sequence for m in messages] == list(range(1, len(messages) + 1))
    return [m.content for m in messages]


async def state(kit: Kit, run: str) -> RunState:
    return (await kit.store.get_run(ADA, run)).state

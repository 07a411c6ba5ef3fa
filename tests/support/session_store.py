"""A session store to test, and things to put into it."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from servicekit.errors import ServiceError
from servicekit.ids import new_id
from servicekit.testing import FakeClock
from session.adapters.database import Database
from session.adapters.store import SqlSessionStore
from session.adapters.tables import metadata
from session.core.model import (
    BegunRun,
    BusyPolicy,
    Event,
    InputRequest,
    Lease,
    Message,
    NewEvent,
    NewMessage,
    NewRun,
    NewSession,
    Owner,
    Role,
    RunEnd,
    RunState,
    Summary,
)
from tests.support.sessions import Databases

ADA = Owner(tenant="acme", user="ada")
BOB = Owner(tenant="acme", user="bob")  # another user of the same tenant
EVE = Owner(tenant="globex", user="ada")  # the same user name in another tenant
LEASE = Lease(owner="orchestrator-1", duration=timedelta(seconds=30))
OTHER = Lease(owner="orchestrator-2", duration=timedelta(seconds=30))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """A store with what a test needs around it."""

    store: SqlSessionStore
    database: Database
    clock: FakeClock

    async def rows(self) -> dict[str, int]:
        """Rows in each table, whoever owns them."""

        def count(connection: sa.Connection) -> dict[str, int]:
            return {
                table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                for table in metadata.sorted_tables
                if table.name != "memories"
            }

        return await self.database.read(count)


def kit_on(databases: Databases) -> Kit:
    """A store of its own on these databases, as another process has."""
    clock = FakeClock()
    return Kit(
        store=SqlSessionStore(database=databases.plain, clock=clock, new_id=new_id),
        database=databases.admin,
        clock=clock,
    )


@pytest.fixture
def kit(databases: Databases) -> Kit:
    return kit_on(databases)


def new_session(
    team: str = "helpdesk",
    name: str = "",
    request_id: str = "",
    body: str = "",
    retention: timedelta | None = None,
) -> NewSession:
    """A session to create."""
    return NewSession(
        request_id=request_id or str(uuid.uuid4()),
        body_hash=body.encode(),
        team=team,
        display_name=name,
        retention=retention,
    )


def question(
    text: str = "why?",
    *,
    session: str = "",
    team: str = "helpdesk",
    request_id: str = "",
    body: str = "",
    lease: Lease = LEASE,
    history: int = 0,
    before: Sequence[NewMessage] = (),
    on_busy: BusyPolicy = BusyPolicy.ENQUEUE,
    retention: timedelta | None = None,
    max_active_runs: int = 0,
    answer_schema: bytes = b"",
) -> NewRun:
    return NewRun(
        request_id=request_id or str(uuid.uuid4()),
        body_hash=body.encode(),
        team=team,
        team_revision="r1",
        session=session,
        title=text,
        input=(*before, NewMessage(role=Role.USER, content=text)),
        lease=lease,
        history_messages=history,
        on_busy=on_busy,
        retention=retention,
        max_active_runs=max_active_runs,
        answer_schema=answer_schema,
    )


def step(sequence: int, kind: str = "tool_call_started", member: str = "writer") -> NewEvent:
    return NewEvent(
        event=Event(
            sequence=sequence,
            kind=kind,
            member=member,
            create_time=FakeClock().now(),
            payload=f"step {sequence}".encode(),
        )
    )


def answer(sequence: int, text: str = "because") -> NewEvent:
    return NewEvent(
        event=step(sequence, "message_completed", "").event,
        answer=NewMessage(role=Role.ASSISTANT, content=text, citations=b"cites"),
    )


def asks(sequence: int, call_id: str = "0.0", expire_time: datetime | None = None) -> NewEvent:
    return NewEvent(
        event=step(sequence, "input_requested").event,
        asks=InputRequest(call_id=call_id, body=f"may {call_id}?".encode(), expire_time=expire_time),
    )


def told(sequence: int, call_id: str = "0.0") -> NewEvent:
    return NewEvent(event=step(sequence, "input_provided").event, told=call_id)


def sums_up(sequence: int, text: str, through: int) -> NewEvent:
    return NewEvent(
        event=step(sequence, "history_summarized", "").event,
        summary=Summary(text=text, through_sequence=through),
    )


def finish(sequence: int, state: RunState = RunState.SUCCEEDED) -> NewEvent:
    return NewEvent(
        event=step(sequence, "run_finished", "").event,
        end=RunEnd(state=state, status=b"why" if state is RunState.FAILED else b"", summary=b"sum"),
    )


async def whole_turn(store: SqlSessionStore, owner: Owner, text: str, session: str = "") -> BegunRun:
    begun = await store.begin_run(owner, question(text, session=session))
    await store.append_events(
        owner, begun.run.id, fencing_token=begun.fencing_token, events=[answer(2, f"re: {text}"), finish(3)]
    )
    return begun


async def appended(store: SqlSessionStore, run: str, events: Sequence[NewEvent], token: int = 1) -> int:
    """The last sequence."""
    return (await store.append_events(ADA, run, fencing_token=token, events=events)).last_sequence


async def all_messages(store: SqlSessionStore, owner: Owner, session: str) -> tuple[Message, ...]:
    found: list[Message] = []
    while True:
        page = await store.list_messages(owner, session, after_sequence=len(found), limit=1000)
        found += page.items
        if not page.more:
            return tuple(found)


async def all_events(store: SqlSessionStore, owner: Owner, run: str) -> tuple[Event, ...]:
    return await store.list_run_events(owner, run, after_sequence=0, limit=1000)


async def reason_of(awaitable: Any) -> str:
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.reason

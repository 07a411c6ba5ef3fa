"""What runs ask of people, and what those say.

A row is made by the event that asks, filled by whoever answers, and done with
when the log holds the answer. Who changes one holds the lock on the run's row:
so a run is never parked beside an answer that nobody would read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.errors import AlreadyExists, InvalidArgument
from session.adapters import rows
from session.adapters.rows import RUN, RUNNING, WAITING, owned, owner_values, to_us
from session.adapters.tables import run_inputs, runs
from session.core.model import NewEvent, NewInput, Owner, Run, RunInput, RunState

_OF_RUN = sa.and_(run_inputs.c.run_id == sa.bindparam("b_run"), owned(run_inputs))
_OPEN = sa.and_(run_inputs.c.input.is_(None), run_inputs.c.in_log.is_(sa.false()))
_UNREAD = sa.and_(run_inputs.c.input.is_not(None), run_inputs.c.in_log.is_(sa.false()))
# A call that is made again by a later attempt keeps its first request.
_ASK = sa.insert(run_inputs).from_select(
    ["run_id", "call_id", "tenant", "owner", "request", "expire_time_us"],
    sa.select(
        sa.bindparam("b_run", type_=sa.String),
        sa.bindparam("b_call", type_=sa.String),
        sa.bindparam("b_tenant", type_=sa.Text),
        sa.bindparam("b_owner", type_=sa.Text),
        sa.bindparam("b_request", type_=sa.LargeBinary),
        sa.bindparam("b_expires", type_=sa.BigInteger),
    ).where(~sa.exists().where(_OF_RUN, run_inputs.c.call_id == sa.bindparam("b_call"))),
    include_defaults=False,
)
_TOLD = (
    sa.update(run_inputs)
    .where(_OF_RUN, run_inputs.c.call_id.in_(sa.bindparam("b_calls", expanding=True)))
    .values(in_log=True)
)
_SAID = (
    sa.select(
        run_inputs.c.run_id, run_inputs.c.input, run_inputs.c.provided_by, run_inputs.c.provided_time_us
    )
    .where(run_inputs.c.run_id.in_(sa.bindparam("b_runs", expanding=True)), _UNREAD)
    .order_by(run_inputs.c.provided_time_us, run_inputs.c.call_id)
)
_PARK = (
    sa.update(runs)
    .where(
        runs.c.id == sa.bindparam("b_run"),
        owned(runs),
        RUNNING,
        sa.exists().where(_OF_RUN, _OPEN),
    )
    .values(
        state=int(RunState.WAITING),
        wait_expire_time_us=sa.bindparam("b_until", type_=sa.BigInteger),
        lease_owner="",
        lease_address="",
        lease_expire_time_us=None,
    )
)
_LOCK_RUN = sa.select(*RUN).where(runs.c.id == sa.bindparam("b_run"), owned(runs)).with_for_update()
_ASKED = sa.select(
    run_inputs.c.request, run_inputs.c.expire_time_us, run_inputs.c.input, run_inputs.c.in_log
).where(_OF_RUN, run_inputs.c.call_id == sa.bindparam("b_call"))
_PROVIDE = (
    sa.update(run_inputs)
    .where(_OF_RUN, run_inputs.c.call_id == sa.bindparam("b_call"))
    .values(
        input=sa.bindparam("b_input", type_=sa.LargeBinary),
        provided_by=sa.bindparam("b_by"),
        provided_time_us=sa.bindparam("b_now"),
    )
)
# RUNNING, under a lease that was given back: it can be acquired at once, and that
# is no lost attempt. A token of its own: whoever parked it has it no longer.
_WOKEN: dict[str, Any] = {
    "state": int(RunState.RUNNING),
    "wait_expire_time_us": None,
    "lease_expire_time_us": rows.GIVEN_BACK,
    "fencing_token": runs.c.fencing_token + 1,
}
_WAKE = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("b_run"), owned(runs), WAITING)
    .values(_WOKEN)
    .returning(*RUN)
)
WAKE_EXPIRED = (
    sa.update(runs)
    .where(
        runs.c.id.in_(
            sa.select(runs.c.id)
            .where(WAITING, runs.c.wait_expire_time_us <= sa.bindparam("b_now", type_=sa.BigInteger))
            .order_by(runs.c.wait_expire_time_us)
            .limit(sa.bindparam("b_limit"))
            .with_for_update(skip_locked=True)
        ),
        WAITING,
    )
    .values(_WOKEN)
)
# For an active run: one that waits is woken, for somebody to end it.
STOP: dict[str, Any] = {
    "cancel_requested": True,
    **{name: sa.case((WAITING, value), else_=runs.c[name]) for name, value in _WOKEN.items()},
}


def some_unread(run_id: sa.ColumnElement[str]) -> sa.Exists:
    """Whether people said something that the log does not hold yet."""
    return sa.exists().where(run_inputs.c.run_id == run_id, _UNREAD)


def note(connection: Connection, owner: Owner, run: str, events: Sequence[NewEvent]) -> None:
    """Keeps what the events ask, and that they hold what was said."""
    values = owner_values(owner) | {"b_run": run}
    asked = [
        values
        | {
            "b_call": new.asks.call_id,
            "b_request": new.asks.body,
            "b_expires": None if new.asks.expire_time is None else to_us(new.asks.expire_time),
        }
        for new in events
        if new.asks is not None
    ]
    for one in asked:
        connection.execute(_ASK, one)
    told = [new.told for new in events if new.told]
    if told:
        connection.execute(_TOLD, values | {"b_calls": told})


def said(connection: Connection, names: Sequence[str]) -> dict[str, tuple[RunInput, ...]]:
    """By run, what people said that its log does not hold yet; for runs that are the caller's."""
    found: dict[str, tuple[RunInput, ...]] = {}
    if names:
        for run, body, user, time_us in connection.execute(_SAID, {"b_runs": sorted(names)}):
            one = RunInput(body=body, user=user, create_time=rows.from_us(time_us))
            found[run] = (*found.get(run, ()), one)
    return found


def park(connection: Connection, owner: Owner, run: str, until: datetime) -> None:
    """Makes a run WAITING whose row is locked.

    Raises:
        InvalidArgument: INVALID_FIELD: its log asks nobody.
    """
    values = owner_values(owner) | {"b_run": run, "b_until": to_us(until)}
    if not connection.execute(_PARK, values).rowcount:
        raise InvalidArgument.field(
            "park_until",
            "the run's log asks nobody for anything; append input_requested first",
            until.isoformat(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvideInput:
    """A transaction that stores what a person says to a run."""

    owner: Owner
    run: str
    new: NewInput
    check: Callable[[bytes], None]
    now: datetime

    def __call__(self, connection: Connection) -> Run:
        """See SessionStore.provide_input."""
        values = owner_values(self.owner) | {"b_run": self.run, "b_call": self.new.call_id}
        row = connection.execute(_LOCK_RUN, values).one_or_none()
        if row is None:
            raise rows.run_not_found(self.run)
        run = rows.run_from(row)
        asked = connection.execute(_ASKED, values).one_or_none()
        if asked is not None and asked.input is not None:
            if asked.input != self.new.body:
                raise _provided(self.run, self.new.call_id)
            return run
        if run.state.terminal:
            raise rows.run_finished(self.run, run.state)
        if asked is None or asked.in_log:
            raise _not_requested(self.run, self.new.call_id)
        if asked.expire_time_us is not None and asked.expire_time_us <= to_us(self.now):
            raise _not_requested(
                self.run, self.new.call_id, late=self.now - rows.from_us(asked.expire_time_us)
            )
        self.check(asked.request)
        said = {"b_input": self.new.body, "b_by": self.new.user, "b_now": to_us(self.now)}
        connection.execute(_PROVIDE, values | said)
        woken = connection.execute(_WAKE, values).one_or_none()
        return run if woken is None else rows.run_from(woken)


def _provided(run: str, call_id: str) -> AlreadyExists:
    return AlreadyExists(
        f"somebody has said something else about {call_id} of runs/{run} already; it cannot be changed",
        reason="INPUT_PROVIDED",
        metadata={"run": f"runs/{run}", "call_id": call_id},
    )


def _not_requested(run: str, call_id: str, *, late: timedelta | None = None) -> InvalidArgument:
    why = f"the time for it was over {late.total_seconds():.0f} s ago" if late else "or not any more"
    return InvalidArgument(
        f'runs/{run} does not ask for anything about the call "{call_id}", {why}; '
        "input_requested of its log names the calls that it asks about",
        reason="INPUT_NOT_REQUESTED",
        metadata={"run": f"runs/{run}", "call_id": call_id},
    )

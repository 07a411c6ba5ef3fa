"""What the transactions on runs share: rows to insert, and the texts that an owner of a run needs."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.errors import InvalidArgument
from session.adapters import blobs, rows
from session.adapters.log_events import FIRST_SEQUENCE
from session.adapters.rows import EVENT, MESSAGE, RUN, RUNNING, owned, owner_values, to_us
from session.adapters.tables import messages, run_events, runs, sessions
from session.core.model import (
    NO_SUMMARY,
    AcquiredRun,
    Event,
    Message,
    NewMessage,
    Owner,
    Role,
    Summary,
)
from session.core.pages import PAGE_BYTES, newest_within, size_bytes, sizes_bytes

_INSERT_MESSAGES = sa.insert(messages)
_INSERT_EVENTS = sa.insert(run_events)

# The columns of a run that was acquired, in the order in which `acquired` reads them.
ACQUIRED = [
    *RUN,
    runs.c.fencing_token,
    runs.c.history_messages,
    runs.c.first_input,
    runs.c.input_count,
    runs.c.answer_schema,
]

_SESSION_OF_RUN = (
    sa.select(runs.c.session_id).where(runs.c.id == sa.bindparam("b_run"), owned(runs)).scalar_subquery()
)
# Before its run: whoever locks both rows does it in this order.
LOCK_SESSION_OF_RUN = sa.select(sessions.c.id).where(sessions.c.id == _SESSION_OF_RUN).with_for_update()
_HISTORY = (
    sa.select(*MESSAGE)
    .where(
        messages.c.session_id == sa.bindparam("b_id"),
        owned(messages),
        messages.c.sequence < sa.bindparam("b_before"),
    )
    .order_by(messages.c.sequence.desc())
    .limit(sa.bindparam("b_limit"))
)
_INPUT = (
    sa.select(*MESSAGE)
    .where(
        messages.c.session_id == sa.bindparam("b_id"),
        owned(messages),
        messages.c.sequence >= sa.bindparam("b_first"),
        messages.c.sequence < sa.bindparam("b_end"),
    )
    .order_by(messages.c.sequence)
)
# For a run that revision 0001 began: it did not note where its input is.
_ALL_OF_RUN = (
    sa.select(*MESSAGE)
    .where(messages.c.session_id == sa.bindparam("b_id"), owned(messages))
    .where(messages.c.run_id == sa.bindparam("b_run"))
    .order_by(messages.c.sequence)
)


_SUMMARIES = sa.select(sessions.c.id, sessions.c.history_summary, sessions.c.summary_through).where(
    sessions.c.id.in_(sa.bindparam("b_ids", expanding=True)), owned(sessions), sessions.c.summary_through > 0
)
_COVERS_MORE = sessions.c.summary_through <= sa.bindparam("b_through", type_=sa.BigInteger)
_KEEP_SUMMARY = (
    sa.update(sessions)
    .where(sessions.c.id == _SESSION_OF_RUN)
    .values(
        history_summary=sa.case(
            (_COVERS_MORE, sa.bindparam("b_text", type_=sa.Text)), else_=sessions.c.history_summary
        ),
        summary_through=sa.case(
            (_COVERS_MORE, sa.bindparam("b_through", type_=sa.BigInteger)), else_=sessions.c.summary_through
        ),
    )
    .returning(sessions.c.message_count)
)


EVENT_OF_RUN = sa.select(*EVENT).where(
    run_events.c.run_id == sa.bindparam("b_run"),
    owned(run_events),
    run_events.c.sequence == sa.bindparam("b_sequence"),
)
# A run of which its owner cannot know more than what it was told at its
# beginning, perhaps in vain: the same lease, and nothing appended.
UNTOUCHED = sa.and_(
    owned(runs),
    RUNNING,
    runs.c.lease_owner == sa.bindparam("b_lease_owner"),
    runs.c.attempt == 1,
    runs.c.last_sequence == FIRST_SEQUENCE,
)
RENEWED: dict[str, Any] = {"lease_expire_time_us": sa.bindparam("b_now") + runs.c.lease_duration_us}


class Missed(Exception):
    """A hot statement met no row; the transaction is undone and the reason looked up."""


def history_before(
    connection: Connection, owner: Owner, session: str, before: int, *, limit: int, budget_bytes: int
) -> tuple[Message, ...]:
    """The newest `limit` messages before a sequence that fit, oldest first."""
    if not limit or before <= 1 or budget_bytes <= 0:
        return ()
    values = owner_values(owner) | {"b_id": session, "b_before": before, "b_limit": limit}
    found = connection.execute(_HISTORY, values).all()
    fit = newest_within(found[::-1], budget_bytes, blobs.message_bytes)
    return tuple(blobs.messages_from(connection, owner, session, fit))


def acquired(connection: Connection, row: rows.Row, summary: Summary = NO_SUMMARY) -> AcquiredRun:
    """A run of the columns ACQUIRED with its texts."""
    run = rows.run_from(row)
    token, limit, first, count, schema = row[len(RUN) :]
    owner = Owner(tenant=run.tenant, user=run.user)
    values = owner_values(owner) | {"b_id": run.session}
    if first is None:
        found = connection.execute(_ALL_OF_RUN, values | {"b_run": run.id}).all()
        of_run = blobs.messages_from(connection, owner, run.session, found)
        questions = [n for n, message in enumerate(of_run, 1) if message.role is Role.USER]
        input_ = tuple(of_run[: questions[-1]]) if questions else ()
    else:
        found = connection.execute(_INPUT, values | {"b_first": first, "b_end": first + count}).all()
        input_ = tuple(blobs.messages_from(connection, owner, run.session, found))
    history = history_before(
        connection,
        owner,
        run.session,
        input_[0].sequence if input_ else 0,
        limit=limit,
        budget_bytes=PAGE_BYTES - sizes_bytes(input_),
    )
    return AcquiredRun(
        run=run,
        fencing_token=token,
        history=history,
        input=input_,
        answer_schema=schema or b"",
        summary=summary,
    )


def acquired_by_owner(connection: Connection, owner: Owner, row: rows.Row) -> AcquiredRun:
    """As `acquired`, with the session's summary; in a transaction of the owner."""
    run = acquired(connection, row)
    found = summaries(connection, owner, [run.run.session])
    return replace(run, summary=found.get(run.run.session, NO_SUMMARY))


def summaries(connection: Connection, owner: Owner, names: Sequence[str]) -> dict[str, Summary]:
    """By session, the summaries of those that have one."""
    values = owner_values(owner) | {"b_ids": sorted(names)}
    return {
        row[0]: Summary(text=row[1], through_sequence=row[2])
        for row in connection.execute(_SUMMARIES, values)
    }


def keep_summary(connection: Connection, owner: Owner, run: str, summary: Summary) -> None:
    """Makes it that of the run's session, whose row is locked then, unless that has one which covers more.

    Raises:
        Missed: No such run.
        InvalidArgument: INVALID_FIELD: it covers messages that are not there.
    """
    values = owner_values(owner) | {
        "b_run": run,
        "b_text": summary.text,
        "b_through": summary.through_sequence,
    }
    count = connection.execute(_KEEP_SUMMARY, values).scalar_one_or_none()
    if count is None:
        raise Missed
    if count < summary.through_sequence:
        raise InvalidArgument.field(
            "events.history_summarized.through_message_sequence",
            f"the session has {count} messages",
            summary.through_sequence,
        )


def insert_messages(
    connection: Connection,
    owner: Owner,
    session: str,
    run: str,
    new: Sequence[NewMessage],
    *,
    first: int,
    now: datetime,
) -> None:
    """Stores messages with the sequences from `first` on. The session's row is locked or new."""
    made = [
        {
            "session_id": session,
            "sequence": sequence,
            "tenant": owner.tenant,
            "owner": owner.user,
            "role": int(message.role),
            "content": message.content,
            "run_id": run,
            "create_time_us": to_us(now),
            "citations": message.citations,
            "blob_digest": None,
            "blob_bytes": None,
        }
        for sequence, message in enumerate(new, first)
    ]
    most = blobs.offload_bytes(connection)
    large = [n for n, message in enumerate(new) if size_bytes(message) > most]
    contents = [(n, content) for n in large if len(content := blobs.join(new[n])) > most]
    stored = blobs.put(connection, owner, session, [content for _, content in contents])
    for (n, _), blob in zip(contents, stored, strict=True):
        made[n] |= {"content": "", "citations": b"", **_named(blob)}
    connection.execute(_INSERT_MESSAGES, made)


def insert_events(
    connection: Connection, owner: Owner, run: str, events: Sequence[Event], *, session: str = ""
) -> None:
    """Stores events. `session`: its row is locked, so that large ones (see `large`) can leave theirs."""
    made = [
        {
            "run_id": run,
            "sequence": event.sequence,
            "tenant": owner.tenant,
            "owner": owner.user,
            "kind": event.kind,
            "member": event.member,
            "create_time_us": to_us(event.create_time),
            "payload": event.payload,
            "blob_digest": None,
            "blob_bytes": None,
        }
        for event in events
    ]
    if session:
        big = [n for n, event in enumerate(events) if large(connection, event)]
        stored = blobs.put(connection, owner, session, [events[n].payload for n in big])
        for n, blob in zip(big, stored, strict=True):
            made[n] |= {"payload": b"", **_named(blob)}
    connection.execute(_INSERT_EVENTS, made)


def large(connection: Connection, event: Event) -> bool:
    """Whether an event's payload leaves its row."""
    return len(event.payload) > blobs.offload_bytes(connection)


def _named(blob: blobs.Blob) -> dict[str, Any]:
    return {"blob_digest": blob.digest, "blob_bytes": blob.size_bytes}

"""Memories of users, found by their words.

The words of a memory are stored beside it, so that both databases find them
the same way and a search looks at the user's own rows only, 1,000 at most.
"""

import math
from collections.abc import Callable, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.clock import Clock
from servicekit.errors import FailedPrecondition, NotFound
from session.adapters import rows
from session.adapters.database import Database
from session.adapters.rows import owned, owner_values, to_us
from session.adapters.tables import memories
from session.core.model import Owner
from session.core.user_data import MAX_MEMORIES, Memory, NewMemory
from session.core.words import words_of

_MEMORY = [
    memories.c.id,
    memories.c.owner,
    memories.c.team,
    memories.c.content,
    memories.c.create_time_us,
]
_BY_REQUEST = sa.select(*_MEMORY, memories.c.body_hash).where(
    owned(memories), memories.c.request_id == sa.bindparam("b_request")
)
_COUNT = sa.select(sa.func.count()).select_from(memories).where(owned(memories))
# Two that are added at once must not both be the thousandth.
_TAKE_TURNS = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:tenant || '/' || :owner, 0))")
_FORGET = sa.delete(memories).where(memories.c.id == sa.bindparam("b_id"), owned(memories))


class MemoryRows:
    """Mixed into the session store. See MemoryStore."""

    _database: Database
    _clock: Clock
    _new_id: Callable[[], str]

    async def add_memory(self, owner: Owner, new: NewMemory) -> Memory:
        """See MemoryStore."""
        row = {
            "id": self._new_id(),
            "tenant": owner.tenant,
            "owner": owner.user,
            "team": new.team,
            "content": new.text,
            "words": f" {' '.join(words_of(new.text))} ",
            "create_time_us": to_us(self._clock.now()),
            "request_id": new.request_id,
            "body_hash": new.body_hash,
        }
        values = owner_values(owner) | {"b_request": new.request_id}

        def add(connection: Connection) -> rows.Row:
            if connection.dialect.name == "postgresql":
                connection.execute(_TAKE_TURNS, {"tenant": owner.tenant, "owner": owner.user})
            known = connection.execute(_BY_REQUEST, values).one_or_none()
            if known is not None:
                return known
            if connection.execute(_COUNT, values).scalar_one() >= MAX_MEMORIES:
                raise FailedPrecondition(
                    f"{owner.user} has {MAX_MEMORIES} memories, the most there can be; forget some first",
                    reason="MEMORY_LIMIT_REACHED",
                    metadata={"user": owner.user, "limit": str(MAX_MEMORIES)},
                )
            connection.execute(sa.insert(memories), row)
            return [row[column.name] for column in [*_MEMORY, memories.c.body_hash]]

        stored = await self._database.write(add, owner)
        if stored[-1] != new.body_hash:
            raise rows.request_id_reused(new.request_id)
        return _memory_from(stored)

    async def list_memories(
        self, owner: Owner, *, team: str, before: tuple[datetime, str] | None, limit: int
    ) -> tuple[Memory, ...]:
        """See MemoryStore."""
        query = sa.select(*_MEMORY).where(owned(memories), *_usable_by(team))
        place = sa.tuple_(memories.c.create_time_us, memories.c.id)
        if before is not None:
            query = query.where(place < sa.tuple_(to_us(before[0]), before[1]))
        query = query.order_by(memories.c.create_time_us.desc(), memories.c.id.desc()).limit(limit)
        found = await self._database.read(lambda c: c.execute(query, owner_values(owner)).all(), owner)
        return tuple(map(_memory_from, found))

    async def search_memories(
        self, owner: Owner, *, words: Sequence[str], team: str, limit: int
    ) -> tuple[Memory, ...]:
        """See MemoryStore."""
        if not words:
            return ()
        has = [memories.c.words.like(f"% {word}%") for word in words]
        query = (
            sa.select(memories.c.id, *(sa.case((one, 1), else_=0) for one in has))
            .where(owned(memories), *_usable_by(team), sa.or_(*has))
            .order_by(memories.c.create_time_us.desc(), memories.c.id.desc())
        )

        def search(connection: Connection) -> list[rows.Row]:
            matches = {row[0]: tuple(row[1:]) for row in connection.execute(query, owner_values(owner))}
            best = _best(matches, limit)
            texts = sa.select(*_MEMORY).where(owned(memories), memories.c.id.in_(best))
            found = {row[0]: row for row in connection.execute(texts, owner_values(owner))}
            return [found[id_] for id_ in best if id_ in found]

        return tuple(map(_memory_from, await self._database.read(search, owner)))

    async def forget_memory(self, owner: Owner, memory: str) -> None:
        """See MemoryStore."""
        values = owner_values(owner) | {"b_id": memory}
        if not await self._database.write(lambda c: c.execute(_FORGET, values).rowcount, owner):
            raise NotFound(
                f"no memory memories/{memory}",
                reason="MEMORY_NOT_FOUND",
                metadata={"memory": f"memories/{memory}"},
            )


def _best(matches: dict[str, tuple[int, ...]], limit: int) -> list[str]:
    """The ids whose words say most: a word counts the more, the fewer have it. Newest first among equals."""
    if not matches:
        return []
    counts = [sum(column) for column in zip(*matches.values(), strict=True)]
    weights = [math.log1p(len(matches) / count) if count else 0.0 for count in counts]
    scores = {
        id_: sum(weight for weight, has in zip(weights, row, strict=True) if has)
        for id_, row in matches.items()
    }
    return sorted(scores, key=lambda id_: -scores[id_])[:limit]


def _usable_by(team: str) -> list[sa.ColumnElement[bool]]:
    return [memories.c.team.in_(["", team])] if team else []


def _memory_from(row: rows.Row) -> Memory:
    return Memory(id=row[0], user=row[1], team=row[2], text=row[3], create_time=rows.from_us(row[4]))

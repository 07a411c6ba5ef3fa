"""Scores in SQL, and the queue of runs that wait for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.clock import Clock
from session.adapters import rows
from session.adapters.access import Access, Bypass
from session.adapters.database import Database, Duplicate
from session.adapters.rows import duration_us, from_us, owned, owner_values, to_us
from session.adapters.tables import run_scores, run_scorings, runs, team_evaluations
from session.core.model import Lease, Message, NewScoring, Owner, Role, RunState
from session.core.scores import (
    MAX_REVISIONS,
    MAX_WAITING_COUNTED,
    Means,
    NewScores,
    RevisionQuality,
    Scoring,
    StoredScores,
    TeamEvaluation,
)

_SAMPLED, _SUSPICIOUS = 1, 2  # as in ScoringRequest.Selection; 0: somebody asked

_INSERT = sa.insert(run_scorings)
_FREE = run_scorings.c.lease_expire_time_us < sa.bindparam("b_now", type_=sa.BigInteger)
# SKIP LOCKED: two evaluation services share the work.
_NEXT = (
    sa.select(run_scorings.c.run_id)
    .where(_FREE)
    .order_by(run_scorings.c.priority, run_scorings.c.create_time_us)
    .limit(sa.bindparam("b_limit"))
    .with_for_update(skip_locked=True)
)
_CLAIM = (
    sa.update(run_scorings)
    .where(run_scorings.c.run_id.in_(sa.bindparam("b_runs", expanding=True)))
    .values(
        attempt=run_scorings.c.attempt + 1,
        lease_owner=sa.bindparam("b_lease_owner"),
        lease_expire_time_us=sa.bindparam("b_expires"),
    )
    .returning(
        run_scorings.c.run_id,
        run_scorings.c.tenant,
        run_scorings.c.owner,
        run_scorings.c.team,
        run_scorings.c.request,
        run_scorings.c.attempt,
        run_scorings.c.create_time_us,
        run_scorings.c.priority,
    )
)
_SCORES = [
    run_scores.c.run_id,
    run_scores.c.evaluator,
    run_scores.c.version,
    run_scores.c.team,
    run_scores.c.team_revision,
    run_scores.c.create_time_us,
    run_scores.c.payload,
]
_OF_RUN = (
    sa.select(*_SCORES)
    .where(run_scores.c.run_id == sa.bindparam("b_run"), owned(run_scores))
    .order_by(run_scores.c.create_time_us, run_scores.c.evaluator, run_scores.c.version)
)
# A client's own assistant messages are part of a run's input: an answer comes after all of that.
_OF_RUNS = (
    sa.select(*_SCORES, (runs.c.first_input + runs.c.input_count).label("first_answer"))
    .join(runs, runs.c.id == run_scores.c.run_id)
    .where(run_scores.c.run_id.in_(sa.bindparam("b_runs", expanding=True)), owned(run_scores))
    .order_by(run_scores.c.create_time_us, run_scores.c.evaluator, run_scores.c.version)
)
_RUN = sa.select(runs.c.team, runs.c.team_revision, runs.c.state).where(
    runs.c.id == sa.bindparam("b_run"), owned(runs)
)
_WAITS = sa.and_(run_scorings.c.run_id == sa.bindparam("b_run"), owned(run_scorings))
_EVALUATION = [
    team_evaluations.c.id,
    team_evaluations.c.team,
    team_evaluations.c.create_time_us,
    team_evaluations.c.payload,
]


def insert_scoring(
    connection: Connection, owner: Owner, run: str, *, team: str, new: NewScoring, now_us: int
) -> None:
    """The run, which ends in this transaction, waits to be scored."""
    row = {
        "run_id": run,
        "tenant": owner.tenant,
        "owner": owner.user,
        "team": team,
        "priority": new.priority,
        "request": new.request,
        "create_time_us": now_us,
        "attempt": 0,
        "lease_owner": "",
        "lease_expire_time_us": 0,
    }
    connection.execute(_INSERT, row)


class ScoreRows:
    """Mixed into the session store. See ScoreStore."""

    _database: Database
    _clock: Clock

    async def claim_scorings(
        self, *, lease: Lease, limit: int, tenant: str
    ) -> tuple[tuple[Scoring, ...], int]:
        """See ScoreStore."""
        claim = _Claim(lease=lease, limit=limit, tenant=tenant, now_us=to_us(self._clock.now()))
        return await self._database.write(claim, Bypass.SCORING)

    async def put_scores(self, owner: Owner, new: NewScores) -> StoredScores:
        """See ScoreStore."""
        put = _Put(owner=owner, new=new, now_us=to_us(self._clock.now()))
        try:
            return await self._database.write(put, owner)
        except Duplicate:  # another process was quicker by a moment
            return await self._database.write(put, owner)

    async def scores_of_run(self, owner: Owner, run: str) -> tuple[StoredScores | None, bool]:
        """See ScoreStore."""
        values = owner_values(owner) | {"b_run": run}

        def look(connection: Connection) -> tuple[StoredScores | None, bool]:
            # In this order: scores are stored when the wait ends, so that neither is missed.
            waits = connection.execute(sa.select(sa.exists().where(_WAITS)), values).scalar_one()
            found = connection.execute(_OF_RUN, values).all()
            if found:
                return _stored(found[-1]), bool(waits)
            row = connection.execute(_RUN, values).one_or_none()
            if row is None:
                raise rows.run_not_found(run)
            return None, bool(waits) or not RunState(row.state).terminal

        return await self._database.read(look, owner)

    async def scores_of_answers(self, owner: Owner, found: Sequence[Message]) -> Mapping[int, StoredScores]:
        """See ScoreStore."""
        said = [message for message in found if message.role is Role.ASSISTANT]
        if not said:
            return {}
        values = owner_values(owner) | {"b_runs": sorted({message.run for message in said})}
        newest = {
            row.run_id: row
            for row in await self._database.read(lambda c: c.execute(_OF_RUNS, values).all(), owner)
        }
        return {
            message.sequence: _stored(row)
            for message in said
            if (row := newest.get(message.run)) is not None and message.sequence >= row.first_answer
        }

    async def all_scores_of_run(self, owner: Owner, run: str) -> tuple[StoredScores, ...]:
        """See ScoreStore."""
        values = owner_values(owner) | {"b_run": run}
        found = await self._database.read(lambda c: c.execute(_OF_RUN, values).all(), owner)
        return tuple(map(_stored, found))

    async def list_scores(
        self, owner: Owner, *, team: str, before: tuple[datetime, str] | None, limit: int
    ) -> tuple[StoredScores, ...]:
        """See ScoreStore."""
        key = sa.tuple_(
            run_scores.c.create_time_us, run_scores.c.run_id, run_scores.c.evaluator, run_scores.c.version
        )
        query = sa.select(*_SCORES).where(owned(run_scores))
        if team:
            query = query.where(run_scores.c.team == team)
        if before is not None:
            run, evaluator, version = before[1].split("/", 2)
            query = query.where(key < sa.tuple_(to_us(before[0]), run, evaluator, version))
        query = query.order_by(*(column.desc() for column in key.clauses)).limit(limit)
        found = await self._database.read(lambda c: c.execute(query, owner_values(owner)).all(), owner)
        return tuple(map(_stored, found))

    async def quality(
        self, tenant: str, user: str | None, team: str, *, window: timedelta
    ) -> tuple[RevisionQuality, ...]:
        """See ScoreStore."""
        query = _quality(tenant, user, team, since_us=to_us(self._clock.now() - window))
        access: Access = Bypass.SCORING if user is None else Owner(tenant=tenant, user=user)
        found = await self._database.read(lambda c: c.execute(query).all(), access)
        return tuple(
            RevisionQuality(
                team_revision=row.team_revision,
                sampled_runs=row.sampled,
                suspicious_runs=row.suspicious,
                means=Means(
                    faithfulness=row.faithfulness,
                    grounding=row.grounding,
                    retrieval_relevance=row.retrieval_relevance,
                    answer_relevance=row.answer_relevance,
                ),
                newest_time=from_us(row.newest),
            )
            for row in found
        )

    async def put_evaluation(
        self, owner: Owner, *, evaluation: str, team: str, payload: bytes
    ) -> TeamEvaluation:
        """See ScoreStore."""
        row = {
            "id": evaluation,
            "tenant": owner.tenant,
            "owner": owner.user,
            "team": team,
            "create_time_us": to_us(self._clock.now()),
            "payload": payload,
        }
        known = sa.select(*_EVALUATION).where(owned(team_evaluations), team_evaluations.c.id == evaluation)

        def insert(connection: Connection) -> TeamEvaluation:
            connection.execute(sa.insert(team_evaluations), row)
            return _evaluation(connection.execute(known, owner_values(owner)).one())

        try:
            return await self._database.write(insert, owner)
        except Duplicate:
            found = await self._database.read(lambda c: c.execute(known, owner_values(owner)).one(), owner)
            return _evaluation(found)

    async def list_evaluations(
        self, owner: Owner, *, team: str, before: tuple[datetime, str] | None, limit: int
    ) -> tuple[TeamEvaluation, ...]:
        """See ScoreStore."""
        time, id_ = team_evaluations.c.create_time_us, team_evaluations.c.id
        query = sa.select(*_EVALUATION).where(owned(team_evaluations))
        if team:
            query = query.where(team_evaluations.c.team == team)
        if before is not None:
            query = query.where(sa.tuple_(time, id_) < sa.tuple_(to_us(before[0]), before[1]))
        query = query.order_by(time.desc(), id_.desc()).limit(limit)
        found = await self._database.read(lambda c: c.execute(query, owner_values(owner)).all(), owner)
        return tuple(map(_evaluation, found))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """A transaction that takes runs that wait."""

    lease: Lease
    limit: int
    tenant: str
    now_us: int

    def __call__(self, connection: Connection) -> tuple[tuple[Scoring, ...], int]:
        mine = [run_scorings.c.tenant == self.tenant] if self.tenant else []
        values: dict[str, Any] = {"b_now": self.now_us, "b_limit": self.limit}
        found = connection.execute(_NEXT.where(*mine), values).scalars().all()
        taken: Sequence[Any] = ()
        if found:
            expires = self.now_us + duration_us(self.lease.duration)
            claim = {"b_runs": list(found), "b_lease_owner": self.lease.owner, "b_expires": expires}
            taken = connection.execute(_CLAIM, claim).all()
        left = sa.select(run_scorings.c.run_id).where(_FREE, *mine).limit(MAX_WAITING_COUNTED)
        waiting = connection.execute(sa.select(sa.func.count()).select_from(left.subquery()), values)
        ordered = sorted(taken, key=lambda row: (row.priority, row.create_time_us))
        return tuple(map(_scoring, ordered)), int(waiting.scalar_one())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Put:
    """A transaction that stores scores, unless there are such. Why there were none makes way for scores."""

    owner: Owner
    new: NewScores
    now_us: int

    def __call__(self, connection: Connection) -> StoredScores:
        new, values = self.new, owner_values(self.owner) | {"b_run": self.new.run}
        run = connection.execute(_RUN, values).one_or_none()
        if run is None:
            raise rows.run_not_found(new.run)
        is_same = (run_scores.c.evaluator == new.evaluator, run_scores.c.version == new.version)
        same = _OF_RUN.add_columns(run_scores.c.scored).where(*is_same)
        found = connection.execute(same, values).one_or_none()
        if found is not None and new.scored and not found.scored:
            mine = (run_scores.c.run_id == sa.bindparam("b_run"), owned(run_scores))
            connection.execute(sa.delete(run_scores).where(*mine, *is_same), values)
            found = None
        if found is None:
            connection.execute(sa.insert(run_scores), self._row(run))
            found = connection.execute(same, values).one()
        connection.execute(sa.delete(run_scorings).where(_WAITS), values)
        return _stored(found)

    def _row(self, run: Any) -> dict[str, Any]:
        new = self.new
        return {
            "run_id": new.run,
            "evaluator": new.evaluator,
            "version": new.version,
            "tenant": self.owner.tenant,
            "owner": self.owner.user,
            "team": run.team,
            "team_revision": run.team_revision,
            "selection": new.selection,
            "scored": new.scored,
            "faithfulness": new.means.faithfulness,
            "grounding": new.means.grounding,
            "retrieval_relevance": new.means.retrieval_relevance,
            "answer_relevance": new.means.answer_relevance,
            "create_time_us": self.now_us,
            "payload": new.payload,
        }


def _quality(tenant: str, user: str | None, team: str, *, since_us: int) -> sa.Select[Any]:
    table = run_scores.c
    is_sampled = table.selection == _SAMPLED

    def count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((condition, 1), else_=0))

    def mean(column: sa.ColumnElement[float | None]) -> sa.ColumnElement[float | None]:
        return sa.func.avg(sa.case((is_sampled, column))).label(column.name)

    newest = sa.func.max(table.create_time_us).label("newest")
    query = (
        sa.select(
            table.team_revision,
            count(is_sampled).label("sampled"),
            count(table.selection == _SUSPICIOUS).label("suspicious"),
            mean(table.faithfulness),
            mean(table.grounding),
            mean(table.retrieval_relevance),
            mean(table.answer_relevance),
            newest,
        )
        .where(table.tenant == tenant, table.team == team, table.create_time_us >= since_us, table.scored)
        .group_by(table.team_revision)
        .order_by(newest.desc())
        .limit(MAX_REVISIONS)
    )
    return query if user is None else query.where(table.owner == user)


def _scoring(row: Any) -> Scoring:
    return Scoring(
        run=row.run_id,
        tenant=row.tenant,
        user=row.owner,
        team=row.team,
        request=bytes(row.request),
        attempt=row.attempt,
        create_time=from_us(row.create_time_us),
    )


def _stored(row: Any) -> StoredScores:
    return StoredScores(
        run=row.run_id,
        evaluator=row.evaluator,
        version=row.version,
        team=row.team,
        team_revision=row.team_revision,
        create_time=from_us(row.create_time_us),
        payload=bytes(row.payload),
    )


def _evaluation(row: Any) -> TeamEvaluation:
    return TeamEvaluation(
        id=row.id, team=row.team, create_time=from_us(row.create_time_us), payload=bytes(row.payload)
    )

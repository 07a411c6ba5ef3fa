"""The schema of the session store: on SQLite and Postgres alike."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from session.adapters.database import PoolLimits, open_database
from session.adapters.schema import SchemaBehind, check_schema, migrate
from session.adapters.tables import metadata
from tests.support.session_store import ADA, Kit, kit, question, whole_turn
from tests.support.sessions import databases, migrated_file

__all__ = ["databases", "kit", "migrated_file"]


async def test_migrations_build_what_the_code_expects(kit: Kit) -> None:
    def differences(connection: sa.Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    assert await kit.database.read(differences) == []


async def test_migrating_twice_changes_nothing(kit: Kit) -> None:
    await whole_turn(kit.store, ADA, "hello")
    before = await kit.rows()
    first, second = await migrate(kit.database)
    assert first == second
    assert await kit.rows() == before
    await check_schema(kit.database)


async def test_an_empty_database_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'empty.db'}", PoolLimits(connections=1))
    with pytest.raises(SchemaBehind, match="python -m session migrate"):
        await check_schema(database)
    await database.close()


async def test_a_newer_schema_is_accepted(kit: Kit) -> None:
    await kit.database.write(
        lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    )
    await check_schema(kit.database)


async def test_two_running_runs_of_one_session_are_impossible_whatever_the_code_does(kit: Kit) -> None:
    begun = await kit.store.begin_run(ADA, question())
    copy = sa.text(
        "INSERT INTO runs (id, tenant, owner, session_id, team, team_revision, state, create_time_us,"
        " end_time_us, last_sequence, summary, status, request_id, body_hash, lease_owner, lease_duration_us,"
        " lease_expire_time_us, fencing_token)"
        " SELECT 'copy', tenant, owner, session_id, team, team_revision, state, create_time_us,"
        " end_time_us, last_sequence, summary, status, 'another', body_hash, lease_owner, lease_duration_us,"
        " lease_expire_time_us, fencing_token FROM runs WHERE id = :id"
    )
    with pytest.raises(Exception, match=r"(?i)unique") as caught:
        async with asyncio.timeout(10):
            await kit.database.write(lambda c: _raise_cause(c, copy, begun.run.id))
    assert caught.value is not None


def _raise_cause(connection: sa.Connection, statement: sa.TextClause, run: str) -> None:
    try:
        connection.execute(statement, {"id": run})
    except sa.exc.IntegrityError as error:
        raise ValueError(str(error.orig)) from error

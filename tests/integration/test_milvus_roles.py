"""kill -9 of each role of Milvus Distributed, and of Standalone, while the service searches and ingests."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.role_run import BACK_WITHIN_S, STANDALONE, OneRole, RoleChaos, RoleReport, role_chaos, table
from tests.support.milvus_binary import milvus_folder, parts_folder
from tests.support.milvus_cluster import ROLES, MilvusCluster
from tests.support.milvus_server import MilvusStandalone

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(480)]

Folders = pytest.TempPathFactory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Folders) -> Callable[[str], Path]:
    if not os.environ.get("CONFORMANCE"):
        pytest.skip("NOT RUN with roles of a real Milvus that die, which takes 10 minutes: make conformance")
    return tmp_path_factory.mktemp


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> "Callable[[RoleReport], None]":
    """Writes a row of the table of docs/ingest.md."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    assert capture is not None
    rows: list[RoleReport] = []

    def write(one: RoleReport) -> None:
        rows.append(one)
        with capture.global_and_fixture_disabled():
            print(*list(table([one]))[0 if len(rows) == 1 else 2 :], sep="\n", flush=True)  # noqa: T201

    return write


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def distributed(folder: Callable[[str], Path]) -> AsyncIterator[RoleChaos]:
    """One for all roles: what a kill leaves is there at the next one."""
    milvus = MilvusCluster(milvus_folder(), parts_folder(), folder("roles_milvus"))
    try:
        milvus.start()
        async with role_chaos(folder("roles"), milvus, documents=100) as chaos:
            yield chaos
    finally:
        milvus.kill()


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_of_distributed_is_killed(
    distributed: RoleChaos, role: str, report: Callable[[RoleReport], None]
) -> None:
    found = await distributed.strike(role)
    report(found)
    _check(found)
    if role == "proxy":
        assert found.refused  # there is no other


async def test_standalone_is_killed(
    folder: Callable[[str], Path], report: Callable[[RoleReport], None]
) -> None:
    milvus = MilvusStandalone(milvus_folder(), folder("standalone_milvus"))
    try:
        milvus.start()
        async with role_chaos(folder("standalone"), OneRole(milvus), documents=100) as chaos:
            found = await chaos.strike(STANDALONE)
    finally:
        milvus.kill()
    report(found)
    _check(found)
    assert found.refused


def _check(found: RoleReport) -> None:
    """Right or refused with a reason, in time, back by itself, and exactly the right chunks."""
    assert found.wrong == []
    assert found.late == []
    assert found.right > 50
    assert found.back_s < BACK_WITHIN_S
    assert found.chunks > 300
    assert (found.missing, found.stray, found.not_ready) == ([], [], [])

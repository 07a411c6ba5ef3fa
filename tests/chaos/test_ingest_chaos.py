"""kill -9 of worker, service and Milvus in the middle of an ingest leaves exactly the right chunks."""

from pathlib import Path

import pytest

from tests.chaos.ingest_run import IngestPlan, ingest_chaos


@pytest.mark.alone
@pytest.mark.timeout(240)
async def test_everything_is_killed_once(tmp_path: Path) -> None:
    plan = IngestPlan(documents=60, seed=7, workers=1, faults=3, every_s=0.8)
    report = await ingest_chaos(plan, tmp_path)
    assert report.kills == {"milvus": 1, "service": 1, "worker": 1}
    assert report.chunks > 100
    assert (report.missing, report.stray, report.not_ready) == ([], [], [])

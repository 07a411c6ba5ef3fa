"""What an evaluation service serves sets off an alert in a running Prometheus, and stops it.

The rules are the chart's, with windows and waiting times that are 120 times shorter. With their real ones
`promtool` checks each alert (tests/charts/test_rules.py, tests/support/alerts.py).
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.test_evaluation_service import PLANTED, TRUE, World, world_of
from tests.support.ports import free_port
from tests.support.prometheus import PROMETHEUS, firing, prometheus

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROMETHEUS is None, reason="NOT RUN: no prometheus on this machine (Debian: prometheus)"
    ),
]
QUICKER = 120  # half an hour is 15 s
ALERT = "AgentTeamsAnswersUnsupportedFast"
WITHIN_S = 100


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of("acme", tmp_path) as world:
        yield world


@pytest.mark.timeout(300)
async def test_planted_hallucinations_set_off_the_alert_and_supported_answers_end_it(
    world: World, tmp_path: Path
) -> None:
    port = free_port()

    async def says(what: str, *, until_fires: bool) -> list[dict[str, str]]:
        """Run after run, until it does or does not."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                await world.scores(await world.ask(what))
                found = [one for one in await asyncio.to_thread(firing, address) if one["alertname"] == ALERT]
                if bool(found) == until_fires:
                    return found

    async with world.serving("evaluation", metrics_port=port):
        with prometheus(tmp_path, {"evaluation": port}, scrape_s=1, quicker=QUICKER) as address:
            for _ in range(5):  # silent from the first scrapes on
                assert await says(TRUE, until_fires=False) == []
            [alert] = await says(PLANTED, until_fires=True)
            assert alert.items() >= {"team": "acme/helpdesk", "severity": "page"}.items()
            assert await says(TRUE, until_fires=False) == []

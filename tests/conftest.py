"""For every test."""

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest
import structlog

from tests.support import run

# pytest-asyncio asks for the current event loop before its first test, which
# in Python 3.11 makes one that nobody closes: a ResourceWarning, and so an
# error, in whatever test the garbage collector runs. Having set one, even
# None, there is nothing to make.
asyncio.set_event_loop(None)


# With its defaults a logged exception is shown with the locals of all its frames, which takes the event loop
# five seconds and more: leases run out meanwhile.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_configure(config: pytest.Config) -> None:
    """Parallel runs are divided by us."""
    if config.pluginmanager.hasplugin("dsession"):
        from tests.support.workers import Divided  # noqa: PLC0415  # only these need xdist

        config.pluginmanager.register(Divided())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest lane begins first, so that no worker ends long after the others."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: run.lane(item.nodeid.partition("::")[0]) != run.CLUSTER)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """After the last fixture."""
    run.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What did not run for want of something is said at the end, where it is seen."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if "NOT RUN" in reason:
            reasons[reason.removeprefix("Skipped: ")] += 1
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} tests {reason}", red=True, bold=True)
    report = os.environ.get("TEST_REPORT")  # make test repeats it at the end of its last call
    if report:
        with Path(report).open("a") as file:
            file.writelines(f"{count} tests {reason}\n" for reason, count in reasons.items())

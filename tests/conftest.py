"""For every test."""

import asyncio
from collections import Counter

import pytest

# pytest-asyncio asks for the current event loop before its first test, which
# in Python 3.11 makes one that nobody closes: a ResourceWarning, and so an
# error, in whatever test the garbage collector runs. Having set one, even
# None, there is nothing to make.
asyncio.set_event_loop(None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What did not run for want of something is said at the end, where it is seen."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if "NOT RUN" in reason:
            reasons[reason.removeprefix("Skipped: ")] += 1
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} tests {reason}", red=True, bold=True)

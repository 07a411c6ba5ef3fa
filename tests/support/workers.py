"""How the tests of a parallel run (`pytest -n 2`, `make test`) are divided among its workers."""

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import NodeManager

from tests.support.run import lane


class Lanes(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """File by file, and those of one lane to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid.partition("::")[0])


class Divided:
    """The plugin that says so."""

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: object) -> Lanes:
        """In the order of the collection, which has the longest first."""
        config.option.loadscopereorder = False
        # Workers that are stopped end their servers first; with 10 s they leave some on a busy machine.
        NodeManager.EXIT_TIMEOUT = 60
        return Lanes(config, log)

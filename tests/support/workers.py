"""How the tests of a parallel run (`pytest -n 2`, `make test`) are divided among its workers."""

import pytest
from xdist.scheduler import LoadScopeScheduling

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
        return Lanes(config, log)

"""What belongs to a whole test run: servers that all of its tests share, and how workers divide its tests."""

import atexit
import re
import shutil
import threading
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import TypeVar

_ROOT = Path(__file__).parents[2]
# One API server for all of them, and what they do to it (CRDs, default annotations) is seen by all.
_ON_THE_CLUSTER = re.compile(r"\bshared_cluster\b|\btests\.integration\.test_operator_\w+ import")
CLUSTER = "the shared cluster"
_exits = ExitStack()
T = TypeVar("T")


def until_the_end(server: AbstractContextManager[T]) -> T:
    """Enters it; it is left when the tests of this process have ended."""
    return _exits.enter_context(server)


def tied() -> list[str]:
    """What a server's command begins with so that it is killed with us, even if we are killed.

    Linux ends it with the thread that began it, so only the main one can.
    """
    able = threading.current_thread() is threading.main_thread() and shutil.which("setpriv")
    return ["setpriv", "--pdeathsig", "KILL"] if able else []


def end() -> None:
    """Ends what is left. For tests/conftest.py; other programs end it as they exit."""
    _exits.close()


atexit.register(end)


@cache
def lane(file: str) -> str:
    """What tests of one worker this test file is among, by its path from the root of the repository.

    A file's tests share servers and are never divided. All those on the shared API server are one lane.
    """
    shared = _ON_THE_CLUSTER.search((_ROOT / file).read_text(encoding="utf-8"))
    return CLUSTER if shared else file

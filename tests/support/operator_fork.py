"""Operators as real processes that start in no time: forks of one that has imported everything."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

_METHOD = multiprocessing.get_context("forkserver")
_METHOD.set_forkserver_preload(["agentteams_operator.assembly", "tests.support.operator_fork"])
_END_S = 20.0


@contextmanager
def forked_operator(environment: Mapping[str, str], log: Path) -> Iterator[BaseProcess]:
    """One for the block; killed at its end."""
    process = _METHOD.Process(target=_run, args=(dict(environment), str(log)), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(_END_S)


def _run(environment: dict[str, str], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.update(environment)
    sys.argv[:] = ["agentteams_operator"]
    runpy.run_module("agentteams_operator", run_name="__main__")

"""What tests of a parallel run share, and what they must not."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.ports import free_address, free_ports
from tests.support.run import CLUSTER, lane

ROOT = Path(__file__).parents[3]


def ports_of(worker: str, count: int) -> set[int]:
    code = f"from tests.support.ports import free_ports; print(*free_ports({count}, apart=1000))"
    environment = os.environ | {"PYTEST_XDIST_WORKER": worker, "PYTEST_XDIST_WORKER_COUNT": "2"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        check=True,
        timeout=60,
        stdout=subprocess.PIPE,
    )
    return {int(port) for port in ran.stdout.split()}


def test_no_port_is_given_twice_and_none_that_the_kernel_gives_too() -> None:
    given = free_ports(100, apart=1000)
    both = [*given, *(port + 1000 for port in given), *free_ports(100)]
    assert len(set(both)) == 300
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 < port < max(lowest, 20_000) for port in both)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", free_address())


def test_workers_have_ports_of_their_own() -> None:
    first, second = ports_of("gw0", 300), ports_of("gw1", 300)
    assert max(port + 1000 for port in first) < min(second)


def test_all_that_use_the_shared_cluster_are_one_lane() -> None:
    lanes: dict[str, set[str]] = {}
    for file in ROOT.glob("tests/*/**/test_*.py"):
        imported = {
            name.name
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests.")
            for name in node.names
        }
        path = str(file.relative_to(ROOT))
        lanes.setdefault(lane(path), set()).add(path)
        if imported & {"cluster", "shared_cluster"}:
            assert lane(path) == CLUSTER
    assert len(lanes.pop(CLUSTER)) > 15
    assert all(files == {name} for name, files in lanes.items())

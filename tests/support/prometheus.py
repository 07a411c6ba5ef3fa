"""A real Prometheus over services on this machine, with the chart's rules, on a quicker clock if wanted.

with prometheus(folder, {"evaluation": 10050}, quicker=120) as address:
    firing(address)      # the labels of each alert that fires
"""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.ports import free_port

RULES = Path(__file__).parents[2] / "charts/agentteams/files/rules/agentteams.yaml"
PROMETHEUS = shutil.which("prometheus")
_READY_S = 60
_DURATION = re.compile(r"\b(\d+)([smhd])\b")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@contextmanager
def prometheus(
    folder: Path, targets: Mapping[str, int], *, scrape_s: int = 2, quicker: int = 1
) -> Iterator[str]:
    """Yields its address when it is ready.

    Args:
        folder: For its data, its configuration and its log.
        targets: Ports of metrics, by the container's name.
        scrape_s: Seconds between scrapes, and between evaluations of the rules.
        quicker: Windows of the rules, and how long alerts wait, are divided by it.
    """
    jobs = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"container": name}} for name, port in targets.items()
    ]
    (folder / "rules.yaml").write_text(yaml.safe_dump(_rules(quicker)))
    config = folder / "prometheus.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": f"{scrape_s}s", "evaluation_interval": f"{scrape_s}s"},
                "scrape_configs": [{"job_name": "agentteams", "static_configs": jobs}],
                "rule_files": [str(folder / "rules.yaml")],
            }
        )
    )
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS or "prometheus", f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def firing(address: str) -> list[dict[str, str]]:
    """The labels of each alert that fires now."""
    answer = httpx.get(f"{address}/api/v1/alerts", timeout=10).raise_for_status()
    return [one["labels"] for one in answer.json()["data"]["alerts"] if one["state"] == "firing"]


def _wait(address: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _READY_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{address}/-/ready", timeout=10).is_success:
                return
        time.sleep(0.1)
    raise RuntimeError(f"Prometheus is not ready after {_READY_S} s; see prometheus.log")


def _rules(quicker: int) -> dict[str, Any]:
    rules: dict[str, Any] = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            for field in {"expr", "for"} & rule.keys():
                rule[field] = _DURATION.sub(lambda found: _divided(found, quicker), rule[field])
    return rules


def _divided(duration: re.Match[str], by: int) -> str:
    return f"{int(duration[1]) * _SECONDS[duration[2]] * 1000 // by}ms"

"""What an image holds, against what its pyproject.toml and its lock say."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.images.engines import Engine
from tests.images.pods import Pod

ROOT = Path(__file__).parents[2]
_INSIDE = (Path(__file__).parent / "inside.py").read_text()
_NOT_WRITABLE = ("/", "/etc", "/opt/agentteams", "/opt/agentteams/app", "/usr/lib", "/var/lib", "/run")
_WAIT_S = 60.0


def project_of(image: str) -> Path:
    """The folder that it is made of."""
    if image == "operator":
        return ROOT / "operator"
    return ROOT / ("libs/servicekit" if image == "milvus-lite" else f"services/{image}")


def packages_of(image: str) -> set[str]:
    """Top-level packages of ours that it needs: its own, and those of the libraries that it names."""
    own = project_of(image)
    found = {folder.name for folder in (own / "src").iterdir() if folder.is_dir()}
    dependencies = tomllib.loads((own / "pyproject.toml").read_text())["project"]["dependencies"]
    for dependency in dependencies:
        named = re.match(r"agentteams-([a-z]+)", dependency)
        if named is not None:
            found.add("agentteams" if named[1] == "protos" else named[1])
    return found - {"__pycache__"}


def locked(image: str) -> set[str]:
    """Distributions of its lock."""
    text = (ROOT / "requirements" / f"{image}.lock").read_text()
    return set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE))


def problems_of(pod: Pod, engine: Engine, log: Path) -> tuple[int, list[str]]:
    """Bytes of ours in it, and what is wrong."""
    where = [*_NOT_WRITABLE, *pod.container.files, *pod.container.writable]
    asking = replace(pod.container, argv=["python", "-I", "-c", _INSIDE, *where], args=())
    asked = engine.start(asking, log)
    if asked.process.wait(_WAIT_S) != 0:
        return 0, [f"{pod.image}: what is inside cannot be said: {asked.log[-2000:]}"]
    said = json.loads(asked.log)
    return said["bytes"], [f"{pod.image}: {problem}" for problem in _problems(pod, said)]


def _problems(pod: Pod, said: dict[str, Any]) -> list[str]:
    found = []
    if set(said["ours"]) != packages_of(pod.image):
        found.append(f"holds the packages {said['ours']} and needs {sorted(packages_of(pod.image))}")
    if foreign := set(said["distributions"]) - locked(pod.image):
        found.append(f"holds what its lock has not: {sorted(foreign)}")
    if said["tests"]:
        found.append(f"holds tests: {said['tests'][:5]}")
    if sorted(said["writable"]) != sorted(pod.container.writable):
        found.append(f"can write to {said['writable']}, the chart mounts {list(pod.container.writable)}")
    if said["uid"] != 65532 or 0 in said["groups"]:
        found.append(f"runs as {said['uid']} with groups {said['groups']}")
    if said["capabilities"] or not said["no_new_privileges"]:
        found.append("has capabilities, or may get new ones")
    return found

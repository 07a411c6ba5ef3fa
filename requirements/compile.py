"""Writes requirements/*.lock: every package with its version and hashes.

run.lock has what the services and the command line need on one machine,
dev.lock that and the tools of this repository. Run by `make lock`.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
HERE = ROOT / "requirements"


def third_party() -> list[str]:
    """What all deployables depend on, without one another."""
    names: set[str] = set()
    for file in [
        ROOT / "protos/pyproject.toml",
        *ROOT.glob("libs/*/pyproject.toml"),
        *ROOT.glob("services/*/pyproject.toml"),
        ROOT / "operator/pyproject.toml",
    ]:
        project = tomllib.loads(file.read_text())["project"]
        names.update(d for d in project["dependencies"] if not d.startswith("agentteams-"))
    return sorted(names)


def compile_lock(name: str, requirements: list[str]) -> None:
    """Resolves the requirements for Python 3.11 and later on any platform."""
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "-", "--universal", "--python-version", "3.11",
        "--generate-hashes", "--no-emit-index-url", "--no-annotate", "--quiet",
        "--custom-compile-command", "make lock", "--output-file", str(HERE / f"{name}.lock"),
    ]  # fmt: skip
    subprocess.run(command, input="\n".join(requirements), text=True, check=True, cwd=ROOT)


if __name__ == "__main__":
    run = [*third_party(), *(HERE / "run.in").read_text().splitlines()]
    compile_lock("run", run)
    compile_lock("dev", [*run, *(HERE / "dev.in").read_text().splitlines()])

"""Writes requirements/*.lock: every package with its version and hashes.

run.lock has what the services and the command line need on one machine,
dev.lock that and the tools of this repository, and one file for each image
what that deployable needs, in the versions of run.lock. Run by `make lock`.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
HERE = ROOT / "requirements"
_OURS = re.compile(r"(agentteams-[a-z]+)(?:\[([a-z,]+)\])?(?:[<>=].*)?")


def projects() -> dict[str, Path]:
    """Our packages: name -> pyproject.toml."""
    files = [ROOT / "protos/pyproject.toml", *ROOT.glob("libs/*/pyproject.toml"), *deployables().values()]
    return {tomllib.loads(file.read_text())["project"]["name"]: file for file in files}


def deployables() -> dict[str, Path]:
    """What is an image: its name -> pyproject.toml."""
    found = {file.parent.name: file for file in sorted(ROOT.glob("services/*/pyproject.toml"))}
    operator = ROOT / "operator/pyproject.toml"
    return found | ({"operator": operator} if operator.exists() else {})


def third_party(file: Path, extras: tuple[str, ...] = ()) -> set[str]:
    """What a package and those of ours that it needs depend on."""
    project, ours = tomllib.loads(file.read_text())["project"], projects()
    names: set[str] = set()
    optional = project.get("optional-dependencies", {})
    for dependency in [*project["dependencies"], *(d for extra in extras for d in optional[extra])]:
        match = _OURS.fullmatch(dependency)
        if match is None:
            names.add(dependency)
        else:
            names |= third_party(ours[match[1]], tuple((match[2] or "").split(",")) if match[2] else ())
    return names


def compile_lock(name: str, requirements: set[str], *options: str) -> None:
    """Resolves the requirements for Python 3.11 and later on any platform."""
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "-", "--universal", "--python-version", "3.11",
        "--generate-hashes", "--no-emit-index-url", "--no-annotate", "--quiet",
        "--custom-compile-command", "make lock", "--output-file", str(HERE / f"{name}.lock"), *options,
    ]  # fmt: skip
    subprocess.run(command, input="\n".join(sorted(requirements)), text=True, check=True, cwd=ROOT)


# An image without code of ours: the server of Milvus Lite, which imports parts of pymilvus.
MILVUS_LITE = {"grpcio", "milvus-lite", "pymilvus"}


if __name__ == "__main__":
    run = {name for file in projects().values() for name in third_party(file)}
    run |= set((HERE / "run.in").read_text().splitlines())
    compile_lock("run", run)
    compile_lock("dev", run | set((HERE / "dev.in").read_text().splitlines()))
    for name, file in deployables().items():
        compile_lock(name, third_party(file), "--constraint", str(HERE / "run.lock"))
    compile_lock("milvus-lite", MILVUS_LITE, "--constraint", str(HERE / "run.lock"))

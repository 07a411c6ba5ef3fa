"""Writes the Python stubs of every .proto below protos/ to protos/gen.

Run by `make proto`; `make proto-check` runs it into a scratch folder and
compares. Uses the protoc inside grpcio-tools, so no other program is needed.
"""

import shutil
import sys
from pathlib import Path

import grpc_tools
from google.rpc import status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).parent
SITE_PACKAGES = Path(status_pb2.__file__).parents[2]  # google/rpc/*.proto lie beside their stubs
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"


def generate(out: Path) -> int:
    """Generates all stubs into `out`, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    sources = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "agentteams").rglob("*.proto"))
    code = protoc.main(
        [
            "protoc",
            f"-I{ROOT}",
            f"-I{SITE_PACKAGES}",
            f"-I{WELL_KNOWN}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out={out}",
            f"--mypy_grpc_out={out}",
            *sources,
        ]
    )
    for package in [out / "agentteams", *(p for p in (out / "agentteams").rglob("*") if p.is_dir())]:
        (package / "__init__.py").touch()
        (package / "py.typed").touch()
    return int(code)


def copy_imports(out: Path) -> None:
    """Copies the google/rpc protos that buf needs beside ours."""
    (out / "google/rpc").mkdir(parents=True, exist_ok=True)
    shutil.copy(SITE_PACKAGES / "google/rpc/status.proto", out / "google/rpc")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "gen"
    copy_imports(ROOT / ".deps")
    sys.exit(generate(target))

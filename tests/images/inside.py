"""Runs inside of an image, without code of ours: says as JSON what is there and what it may do."""

import json
import os
import sys
from importlib.metadata import distributions
from pathlib import Path

APP = Path("/opt/agentteams/app")


def writable(folder: str) -> bool:
    probe = Path(folder) / ".probe"
    try:
        probe.touch()
    except OSError:
        return False
    probe.unlink()
    return True


def main() -> None:
    """On stdout."""
    packages = [Path(p) for p in sys.path if p.endswith("site-packages") and p.startswith("/opt/agentteams")]
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line
    )
    said = {
        "ours": sorted(p.name for p in APP.iterdir() if p.name != "__pycache__"),
        "distributions": sorted(
            d.metadata["Name"].lower().replace("_", "-").replace(".", "-")
            for d in distributions(path=[str(p) for p in packages])
        ),
        "tests": sorted(str(found) for root in packages for found in root.rglob("tests") if found.is_dir()),
        "writable": [folder for folder in sys.argv[1:] if writable(folder)],
        "uid": os.getuid(),
        "groups": os.getgroups(),
        "capabilities": int(status["CapEff"], 16) | int(status["CapPrm"], 16),
        "no_new_privileges": int(status["NoNewPrivs"]),
        "bytes": sum(
            (Path(folder) / file).lstat().st_size
            for folder, _, files in os.walk("/opt/agentteams")
            for file in files
        ),
    }
    json.dump(said, sys.stdout)


main()

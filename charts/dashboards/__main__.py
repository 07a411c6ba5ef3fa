"""Writes charts/agentteams/files/dashboards/*.json; with --check compares instead."""

import sys
from pathlib import Path

from charts.dashboards.boards import BOARDS
from charts.dashboards.grafana import as_json

FOLDER = Path(__file__).parents[1] / "agentteams" / "files" / "dashboards"


def main(arguments: list[str]) -> int:
    """Exit status: 1 if files differ and --check was given."""
    wanted = {FOLDER / f"{board.uid}.json": as_json(board) for board in BOARDS}
    if "--check" not in arguments:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for file in set(FOLDER.glob("*.json")) - set(wanted):
            file.unlink()
        for file, text in wanted.items():
            file.write_text(text)
        return 0
    there = {file: file.read_text() for file in FOLDER.glob("*.json")}
    differing = sorted(
        file.name for file in wanted.keys() | there.keys() if wanted.get(file) != there.get(file)
    )
    if differing:
        sys.stderr.write(f"{', '.join(differing)}: run 'make dashboards' and commit\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

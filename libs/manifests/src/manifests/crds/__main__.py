"""`python -m manifests.crds FOLDER`: writes the files anew. `--check`: ends with 1 if they would change."""

import argparse
import sys
from pathlib import Path

import yaml

from manifests.crds.definitions import definitions

_HEADER = "# Made of the models in libs/manifests by `make crds`. Edit those.\n"


class _Plain(yaml.SafeDumper):
    """Without anchors: not every reader of YAML knows them."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def texts() -> dict[str, str]:
    """What each file holds."""
    return {
        name: _HEADER + yaml.dump(definition, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110)
        for name, definition in definitions().items()
    }


def differing(folder: Path) -> list[str]:
    """The files that are missing, stale, or not ours."""
    wanted = texts()
    there = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.yaml")}
    return sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m manifests.crds", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args(arguments)
    if given.check:
        stale = differing(given.folder)
        if stale:
            sys.stderr.write(
                f"{', '.join(stale)} in {given.folder}: not what the models say; `make crds`, and commit\n"
            )
        return 1 if stale else 0
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (given.folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

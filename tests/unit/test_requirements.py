"""The locks hold what the packages ask for. `make lock` writes them."""

import ast
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def _compile() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compile_locks", ROOT / "requirements" / "compile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMPILE = _compile()


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    assert "://" not in text, "no download addresses"
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(COMPILE.deployables()))
def test_an_images_lock_has_all_that_it_needs_in_the_versions_of_the_tests(name: str) -> None:
    lock, tested = locked(name), locked("run")
    for requirement in COMPILE.third_party(COMPILE.deployables()[name]):
        package = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        assert package in lock, f"{requirement} of {name}: run make lock"
    assert {n: v for n, v in lock.items() if tested.get(n) != v} == {}


@pytest.mark.parametrize("name", sorted(COMPILE.deployables()))
def test_what_is_imported_is_in_the_lock(name: str) -> None:
    """Here everything is installed, the tools of the tests too; where it runs, only what the lock has."""
    folders = [COMPILE.deployables()[name].parent / "src", ROOT / "libs/servicekit/src"]
    ours = {"agentteams", *(package.name for package in ROOT.glob("*/*/src/*")), "agentteams_operator"}
    modules: set[str] = set()
    for file in (file for folder in folders for file in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    given, lock = importlib.metadata.packages_distributions(), set(locked(name))
    missing = {
        module
        for module in modules - ours - set(sys.stdlib_module_names)
        if not {d.lower().replace("_", "-").replace(".", "-") for d in given.get(module, [])} & lock
    }
    assert missing == set(), f"{name} imports them; add them to its pyproject.toml and run make lock"


def test_development_has_what_runs() -> None:
    run, dev = locked("run"), locked("dev")
    assert {n: v for n, v in run.items() if dev.get(n) != v} == {}

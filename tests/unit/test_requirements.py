"""The locks hold what the packages ask for. `make lock` writes them."""

import importlib.util
import re
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


def test_development_has_what_runs() -> None:
    run, dev = locked("run"), locked("dev")
    assert {n: v for n, v in run.items() if dev.get(n) != v} == {}

"""The Dockerfile, without a container: `make images-check` tries the images themselves."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.images.contents import locked, packages_of, project_of

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
IMAGES = re.search(r"^IMAGES := (.*)$", MAKEFILE, re.MULTILINE)[1].split()  # type: ignore[index]


def test_each_deployable_is_an_image_with_a_lock_and_a_port() -> None:
    deployables = {path.parent.name for path in ROOT.glob("services/*/pyproject.toml")} | {"operator"}
    assert set(IMAGES) == deployables | {"milvus-lite"}
    for image in IMAGES:
        assert locked(image)
        assert re.search(rf"^PORT_{image} := \d+$", MAKEFILE, re.MULTILINE), image


@pytest.mark.parametrize("image", IMAGES)
def test_the_dockerfile_copies_the_libraries_that_a_deployable_names(image: str) -> None:
    script = re.search(r"\$\(sed -n '([^']+)' ", (ROOT / "services/Dockerfile").read_text())
    assert script is not None
    done = subprocess.run(
        ["sed", "-n", script[1], str(project_of(image) / "pyproject.toml")],
        capture_output=True, text=True, check=True, timeout=10,
    )  # fmt: skip
    copied = {"agentteams" if name == "protos" else name for name in done.stdout.split()}
    own = {folder.name for folder in (project_of(image) / "src").iterdir()} - {"__pycache__"}
    assert copied | own == packages_of(image)

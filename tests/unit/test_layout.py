"""The folder operator/ must not hide Python's own module of that name."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_python_file_stands_where_it_would_hide_the_standard_library() -> None:
    folder = ROOT / "operator"
    assert [f.name for f in folder.glob("*.py")] == []
    assert list(folder.rglob("conftest.py")) == []
    assert list(folder.rglob("test_*.py")) == []
    assert list((folder / "src").rglob("operator.py")) == []


def test_the_standard_library_is_found_from_the_root() -> None:
    code = "import operator, collections; operator.itemgetter"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True, timeout=30)

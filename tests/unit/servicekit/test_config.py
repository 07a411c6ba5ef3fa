"""Settings from files: what must not stand in an environment."""

import os
import subprocess
import sys
from pathlib import Path

_PRINT = """
from session.settings import Settings
print(Settings().session_database_url)
"""


def read(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PRINT],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "AGENTTEAMS_SETTINGS_DIR": str(folder),
            "AGENTTEAMS_IDENTITY_KEY_FILE": "key",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_setting_is_a_file_or_a_variable_and_the_variable_wins(tmp_path: Path) -> None:
    (tmp_path / "agentteams_session_database_url").write_text("postgresql://from-file\n")
    assert read(tmp_path).stdout == "postgresql://from-file\n"
    both = read(tmp_path, AGENTTEAMS_SESSION_DATABASE_URL="postgresql://from-variable")
    assert both.stdout == "postgresql://from-variable\n"

"""What the installed package brings along, and what its layers may import."""

import ast
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

import session

ROOT = Path(session.__file__).parent


def test_the_migrations_are_one_line_inside_the_package() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert len(script.get_heads()) == 1
    assert len(script.get_bases()) == 1


def test_the_core_knows_neither_network_nor_sql() -> None:
    for path in (ROOT / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in {"grpc", "sqlalchemy", "google", "agentteams"}, path
                assert not name.startswith("session.adapters"), path

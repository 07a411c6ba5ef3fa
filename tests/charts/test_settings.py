"""What charts and operator set is what the programs read, and what they cannot do without is there."""

import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from agentteams_operator.specs.pool import Pool, namespace_objects, pool_objects
from agentteams_operator.specs.settings import PoolSettings
from servicekit.config import ServerSettings
from tests.support.helm import render

ROOT = Path(__file__).parents[2]
# Pods whose programs have settings of their own: else the class is Settings of the image's package.
_CLASSES = {"ingest": "WorkerSettings", "migrate-session": "DatabaseSettings"}
# Read by servicekit before there is any class.
_NOT_SETTINGS = {"AGENTTEAMS_SETTINGS_DIR"}
# What images set themselves (services/Dockerfile).
_BY_IMAGE = {"AGENTTEAMS_HOST": "0.0.0.0"}
# Values with which the chart sets all that it can set.
EVERYTHING: dict[str, Any] = {
    "otlpEndpoint": "http://collector:4317",
    "gateway": {"apiKeysSecret": "keys"},
    "embedding": {"builtin": {"url": "http://m/v1", "model": "m", "apiKeySecret": "key"}},
    "orchestrator": {"maxReplicas": 9, "builtin": {"url": "http://m/v1", "model": "m"}},
    "operator": {"namespaces": ["a", "b"], "quotas": {"teams": 3, "concurrent-runs": 20}},
    "milvus": {"type": "External", "uri": "https://milvus:19530", "tokenSecret": "token"},
    "originals": {"url": "s3://bucket/prefix", "s3Endpoint": "http://s3:9000", "s3Secret": "s3"},
}
LOCAL = {"gateway": {"apiKeysSecret": "keys"}, "embedding": {"builtin": {"modelClaim": "models"}}}
_FILE_VALUES = {"agentteams_session_database_url": "postgresql://u:p@h:5432/d"}


def settings_class(pod: str, image: str) -> type[BaseSettings]:
    package = "agentteams_operator" if image == "operator" else image
    module = importlib.import_module(f"{package}.settings")
    found: type[BaseSettings] = getattr(module, _CLASSES.get(pod, "Settings"))
    return found


def programs(objects: list[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, str], set[str]]]:
    """Pod, image, variables, and names of settings that come as files."""
    for one in objects:
        if one["kind"] not in ("Deployment", "Job"):
            continue
        spec = one["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        image = container["image"].rpartition("/")[2].partition(":")[0]
        if image in ("milvus-lite",) or not container["image"].startswith("agentteams/"):
            continue
        env = {e["name"]: e.get("value", "10.0.0.1") for e in container["env"]}
        files = {
            item["path"]
            for volume in spec["volumes"]
            if volume["name"] == "settings"
            for source in volume["projected"]["sources"]
            for item in source["secret"]["items"]
        }
        yield one["metadata"]["name"].removeprefix("agentteams-"), image, env, files


def everything(profile: str, values: Mapping[str, Any]) -> list[tuple[str, str, dict[str, str], set[str]]]:
    """Those of the chart, and the orchestrators that its operator makes."""
    found = list(programs(render(profile, values=values)))
    (operator,) = [env for pod, _, env, _ in found if pod == "operator"]
    settings = PoolSettings(
        image=operator["AGENTTEAMS_ORCHESTRATOR_IMAGE"],
        environment=json.loads(operator["AGENTTEAMS_ORCHESTRATOR_ENVIRONMENT"]),
    )
    pool = Pool(namespace="acme", team="t")
    made = [dict(one) for one in (*namespace_objects("acme", b"k" * 32), *pool_objects(pool, settings))]
    return [*found, *programs(made)]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("AGENTTEAMS_"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("values", [EVERYTHING, LOCAL], ids=["everything", "local"])
@pytest.mark.parametrize("profile", ["small", "production"])
def test_each_program_reads_what_it_is_given_and_has_what_it_needs(
    profile: str, values: dict[str, Any], environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = set()
    for pod, image, env, files in everything(profile, values):
        seen.add(image)
        cls = settings_class(pod, image)
        known = {f"AGENTTEAMS_{field.upper()}" for field in cls.model_fields}
        if pod.startswith("migrate"):
            # A job gets what all programs get; it reads less.
            known |= {f"AGENTTEAMS_{field.upper()}" for field in ServerSettings.model_fields}
        ours = {name for name in env if name.startswith("AGENTTEAMS_")}
        assert ours - known - _NOT_SETTINGS == set(), f"{pod}: nothing reads them"
        assert {file.upper() for file in files} - known == set(), f"{pod}: nothing reads these files"
        folder = tmp_path / pod
        folder.mkdir()
        for file in files:
            (folder / file).write_text(_FILE_VALUES.get(file, "a-value"))
        with environment.context() as given:
            for name, value in ({} if pod.startswith("migrate") else _BY_IMAGE | env).items():
                given.setenv(name, value)
            if pod.startswith("migrate"):
                given.setenv("AGENTTEAMS_IDENTITY_KEY_FILE", env["AGENTTEAMS_IDENTITY_KEY_FILE"])
            made = cls(_secrets_dir=folder)
        for name, value in env.items():
            field = name.removeprefix("AGENTTEAMS_").lower()
            if field in cls.model_fields and not pod.startswith("migrate"):
                assert field in made.model_fields_set, f"{pod}: {name}={value} is not read"
        assert {file.removeprefix("agentteams_") for file in files} <= made.model_fields_set
    assert seen == {path.parent.name for path in ROOT.glob("services/*/pyproject.toml")} | {"operator"}


def test_every_value_of_the_chart_is_used() -> None:
    """A value that no template reads promises what nobody does."""
    texts = "\n".join(
        path.read_text()
        for path in (ROOT / "charts/agentteams/templates").iterdir()
        if path.suffix in (".yaml", ".tpl", ".txt")
    )
    schema = json.loads((ROOT / "charts/agentteams/values.schema.json").read_text())

    def leaves(at: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, below in at.get("properties", {}).items():
            if "properties" in below:
                yield from leaves(below, (*path, name))
            elif (*path, name) != ("global",):
                yield (*path, name)

    unused = [
        ".".join(path) for path in leaves(schema, ()) if not re.search(rf"\.{re.escape(path[-1])}\b", texts)
    ]
    # Named by the kind of database, in databaseSecret.
    assert unused == ["database.external.sessionSecret", "database.external.catalogueSecret"]

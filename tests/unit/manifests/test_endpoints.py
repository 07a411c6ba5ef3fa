"""Where a ModelConfig is served, and what of its Secrets can be sent."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from manifests import ModelConfig, SecretKeyRef
from manifests.endpoints import (
    OPENAI_URL,
    EndpointUnusable,
    ModelEndpoint,
    SecretFiles,
    endpoint_of,
    has_secrets,
    trust_of,
)

REF = {"name": "llm", "key": "key"}
EVERYTHING: dict[str, Any] = {
    "credentialsSecretKeyRef": REF,
    "headersFrom": ({"name": "X-Project", "valueFrom": {"secretKeyRef": {"name": "llm", "key": "project"}}},),
    "tls": {"caSecretKeyRef": {"name": "ca", "key": "crt"}},
}


def config(namespace: str = "team-a", **extra: Any) -> ModelConfig:
    spec = {"type": "Chat", "provider": "OpenAICompatible", "model": "m", "endpoint": {"url": "http://x/v1"}}
    metadata = {"name": "chat", "namespace": namespace}
    return ModelConfig.model_validate({"metadata": metadata, "spec": {**spec, **extra}})


def write(folder: Path, **values: str) -> SecretFiles:
    for name, value in values.items():
        path = folder / name.replace("_", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(value)
    return SecretFiles(folder)


def test_everything_that_a_manifest_names_is_read_and_nothing_of_it_shown(tmp_path: Path) -> None:
    secrets = write(tmp_path, llm_key="sk-1\n", llm_project="p-2\n", ca_crt="one\ntwo\n")
    found = endpoint_of(config(**EVERYTHING), secrets)
    wanted = ModelEndpoint(
        url="http://x/v1", model="m", api_key="sk-1", headers=(("X-Project", "p-2"),), authorities="one\ntwo"
    )
    assert found == wanted
    assert not {"sk-1", "p-2", "two"} & set(repr(found).replace("'", " ").split())
    assert found.client_options == {
        "base_url": "http://x/v1",
        "api_key": "sk-1",
        "max_retries": 0,
        "default_headers": {"X-Project": "p-2"},
    }


def test_without_secrets_no_file_is_read() -> None:
    assert not has_secrets(config().spec)
    assert all(has_secrets(config(**{name: value}).spec) for name, value in EVERYTHING.items())
    assert endpoint_of(config(), SecretFiles(None)).client_options["api_key"] == "none"


def test_providers_have_their_own_places() -> None:
    spec = {"type": "Chat", "provider": "OpenAI", "model": "m", "credentialsSecretKeyRef": REF}
    openai = ModelConfig.model_validate({"metadata": {"name": "chat"}, "spec": spec})

    class Fixed:
        def read(self, namespace: str, ref: SecretKeyRef, *, lines: bool = False) -> str:
            return f"{namespace}/{ref.name}/{ref.key}"

    assert endpoint_of(openai, Fixed()) == ModelEndpoint(url=OPENAI_URL, model="m", api_key="default/llm/key")
    spec = {"type": "Chat", "provider": "BuiltIn"}
    built_in = ModelConfig.model_validate({"metadata": {"name": "chat"}, "spec": spec})
    own = ModelEndpoint(url="http://own/v1", model="o")
    assert endpoint_of(built_in, SecretFiles(None), built_in=own) is own
    with pytest.raises(EndpointUnusable, match="AGENTTEAMS_BUILTIN_CHAT_URL"):
        endpoint_of(built_in, SecretFiles(None))


def test_what_cannot_be_sent_is_refused_with_its_place(tmp_path: Path) -> None:
    secrets = write(tmp_path, llm_key="hunter2\nX-Evil: 1")
    with pytest.raises(EndpointUnusable, match="characters that no header can have") as caught:
        endpoint_of(config(credentialsSecretKeyRef=REF), secrets)
    assert "hunter2" not in str(caught.value)
    assert caught.value.metadata == {"model": "chat", "namespace": "team-a", "secret": "llm", "key": "key"}
    write(tmp_path, ca_crt="no certificate")
    trusting = config(tls=EVERYTHING["tls"])
    with pytest.raises(EndpointUnusable, match="holds no certificates") as caught:
        trust_of(trusting, endpoint_of(trusting, secrets))
    assert caught.value.metadata["secret"] == "ca"
    assert trust_of(config(), endpoint_of(config(), secrets)) is None


def test_for_all_tenants_a_secret_is_its_namespaces(tmp_path: Path) -> None:
    (tmp_path / "team-a__llm__key").write_text("sk-a")
    write(tmp_path, llm_key="sk-of-nobody")
    secrets = SecretFiles(tmp_path, by_namespace=True)
    assert endpoint_of(config(credentialsSecretKeyRef=REF), secrets).api_key == "sk-a"
    with pytest.raises(EndpointUnusable, match="team-b"):
        endpoint_of(config("team-b", credentialsSecretKeyRef=REF), secrets)


def test_no_client_is_imported() -> None:
    code = "import sys, manifests.endpoints; sys.exit('openai' in sys.modules or 'httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0

"""Which model a name means, and how long its embedder stays open."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from embedding.core.checks import model_name
from embedding.core.models import Models
from embedding.core.ports import LocalSource, RemoteSource
from manifests.endpoints import OPENAI_URL
from servicekit.errors import InvalidArgument, NotFound
from tests.support.embedding_fakes import FakeConfigs, FakeOpen, FakeSecrets

LOCAL = LocalSource(folder=Path("model"))


KEY = {"name": "s", "key": "k"}
BUILTIN = {"type": "Embedding", "provider": "BuiltIn"}


def _remote(model: str = "m", **extra: Any) -> dict[str, Any]:
    fields = {"type": "Embedding", "provider": "OpenAICompatible", "model": model}
    return {**fields, "endpoint": {"url": "http://x/v1"}, **extra}


def _at_x(model: str = "m", **extra: Any) -> RemoteSource:
    return RemoteSource(url="http://x/v1", model=model, timeout=timedelta(seconds=300), **extra)


def _models(opener: FakeOpen, **extra: Any) -> Models:
    defaults: dict[str, Any] = {"builtin": LOCAL, "configs": None, "secrets": FakeSecrets()}
    return Models(open_embedder=opener, **{**defaults, **extra})


async def _source(models: Models, name: str, namespace: str = "default") -> Any:
    async with models.lease(namespace, name) as embedder:
        return embedder.source  # type: ignore[attr-defined]


async def test_builtin_without_a_catalogue() -> None:
    opener = FakeOpen()
    models = _models(opener)
    assert await _source(models, "builtin") == LOCAL
    with pytest.raises(NotFound) as caught:
        await _source(models, "other")
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert caught.value.metadata == {"model": "models/other"}


async def test_a_model_config_of_the_callers_namespace_only() -> None:
    configs = FakeConfigs({("a", "e"): BUILTIN, ("b", "r"): _remote()})
    models = _models(FakeOpen(), configs=configs)
    assert await _source(models, "e", "a") == LOCAL
    assert await _source(models, "r", "b") == _at_x()
    for namespace, name in (("b", "e"), ("a", "r")):
        with pytest.raises(NotFound, match=name):
            await _source(models, name, namespace)


async def test_the_openai_provider_has_its_own_url_and_a_key() -> None:
    spec = _remote(provider="OpenAI", credentialsSecretKeyRef=KEY, limits={"maxRetries": 7})
    del spec["endpoint"]
    models = _models(FakeOpen(), configs=FakeConfigs({("a", "e"): spec}))
    source = await _source(models, "e", "a")
    assert source == replace(_at_x(), url=OPENAI_URL, api_key="a/s/k=secret", max_retries=7)
    assert "secret" not in repr(source)


async def test_headers_and_certificates_come_from_secrets() -> None:
    header = {"name": "X-Project", "valueFrom": {"secretKeyRef": KEY}}
    spec = _remote(headersFrom=[header], tls={"caSecretKeyRef": {"name": "ca", "key": "crt"}})
    source = await _source(_models(FakeOpen(), configs=FakeConfigs({("a", "e"): spec})), "e", "a")
    assert source.headers == (("X-Project", "a/s/k=secret"),)
    assert source.authorities == "a/ca/crt=secret"
    assert "secret" not in repr(source)


async def test_a_chat_model_cannot_embed() -> None:
    configs = FakeConfigs({("default", "chat"): {"type": "Chat", "provider": "BuiltIn"}})
    with pytest.raises(NotFound, match="type Chat"):
        await _source(_models(FakeOpen(), configs=configs), "chat")


async def test_no_builtin_says_which_settings_make_one() -> None:
    with pytest.raises(NotFound, match="AGENTTEAMS_BUILTIN_EMBEDDING_DIR"):
        await _source(_models(FakeOpen(), builtin=None), "builtin")


async def test_equal_configs_share_an_embedder() -> None:
    opener = FakeOpen()
    configs = FakeConfigs(
        {("a", "one"): _remote(), ("b", "two"): _remote(), ("b", "three"): _remote("other")}
    )
    models = _models(opener, configs=configs)
    for namespace, name in (("a", "one"), ("b", "two"), ("b", "three"), ("a", "one")):
        await _source(models, name, namespace)
    assert len(opener.opened) == 2


async def test_a_rotated_key_is_used_from_the_next_call_on() -> None:
    secrets = FakeSecrets("old")
    configs = FakeConfigs({("a", "e"): _remote(credentialsSecretKeyRef=KEY)})
    models = _models(FakeOpen(), configs=configs, secrets=secrets)
    assert (await _source(models, "e", "a")).api_key.endswith("old")
    secrets.value = "new"
    assert (await _source(models, "e", "a")).api_key.endswith("new")


async def test_the_one_unused_for_longest_is_closed_when_nobody_uses_it() -> None:
    opener = FakeOpen()
    configs = FakeConfigs({("default", name): _remote(name) for name in ("a", "b", "c")})
    models = _models(opener, configs=configs, max_open=2)
    async with models.lease("default", "a"):
        await _source(models, "b")
        await _source(models, "c")
        a, b, c = opener.opened
        # a was used before b, so it is dropped; but it is in use.
        assert (a.closed, b.closed, c.closed) == (False, False, False)
    assert (a.closed, b.closed, c.closed) == (True, False, False)
    await models.aclose()
    assert (b.closed, c.closed) == (True, True)


async def test_warm_up_opens_the_builtin_model_if_there_is_one() -> None:
    opener = FakeOpen()
    await _models(opener).warm_up()
    assert [e.source for e in opener.opened] == [LOCAL]
    await _models(opener, builtin=None).warm_up()
    assert len(opener.opened) == 1


async def test_a_model_of_another_tenant_is_its_owners_to_allow() -> None:
    configs = FakeConfigs(
        {("a", "e"): _remote(credentialsSecretKeyRef=KEY), ("a", "open"): _remote("o")},
        {("a", "e"): ("b",), ("a", "open"): ("*",)},
    )
    models = _models(FakeOpen(), configs=configs)
    # The key is the owner's, and so is the client: equal configs share it whoever asks.
    assert (await _source(models, "a/e", "b")).api_key == "a/s/k=secret"
    assert (await _source(models, "a/open", "c")).model == "o"
    refused = []
    for tenant, name in (("c", "a/e"), ("c", "a/none"), ("", "a/open"), ("b", "a/builtin")):
        with pytest.raises(NotFound) as caught:
            await _source(models, name, tenant)
        assert caught.value.reason == "MODEL_NOT_FOUND"
        assert caught.value.metadata == {"model": f"tenants/a/models/{name[2:]}"}
        refused.append(caught.value.message.replace(f'"{name[2:]}"', "NAME"))
    assert refused[0] == refused[1]  # the same whether it is there or not


@pytest.mark.parametrize(
    "name",
    ["tenants/a/models/", "tenants//models/m", "tenants/a/m", "tenants/A/models/m", "a/m", "models/a/m"],
)
def test_names_of_models_are_one_of_two_forms(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"tenants/\{tenant\}/models/\{model\}"):
        model_name("model", name)
    assert model_name("model", "tenants/a/models/m") == "a/m"

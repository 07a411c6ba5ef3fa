"""ModelConfigs: their fields, their fallbacks, and what holds for all models of a team."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests import Catalogue, ModelConfig, fallback_chain, load_text

FULL = """\
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: chat}
spec:
  type: Chat
  provider: OpenAICompatible
  model: qwen3
  endpoint: {url: "https://models.example.com/v1"}
  contextTokens: 32768
  headersFrom:
  - {name: X-Api-Key, valueFrom: {secretKeyRef: {name: llm, key: apiKey}}}
  tls: {caSecretKeyRef: {name: ca, key: ca.crt}}
  limits: {requestsPerMinute: 600, tokensPerMinute: 200000, idleTimeoutSeconds: 30}
  fallbackRefs: [{name: small}]
  pricing: {currency: USD, inputPerMillionTokens: "2.50", outputPerMillionTokens: "10"}
"""
X_API_KEY = "{name: X-Api-Key, valueFrom: {secretKeyRef: {name: llm, key: apiKey}}}"


def problems(text: str) -> list[str]:
    return [f"{p.field}: {p.message}; {p.fix}".rstrip("; ") for p in load_text(text, Path("m.yaml")).problems]


def test_all_fields() -> None:
    content = load_text(FULL, Path("m.yaml"))
    assert content.problems == []
    config = content.objects[0].resource
    assert isinstance(config, ModelConfig)
    spec = config.spec
    assert (spec.context_tokens, spec.limits.requests_per_minute) == (32768, 600)
    assert (spec.limits.tokens_per_minute, spec.limits.timeout_seconds) == (200_000, 300)
    assert spec.headers_from[0].value_from.secret_key_ref.key == "apiKey"
    assert spec.tls is not None
    assert spec.tls.ca_secret_key_ref.name == "ca"
    assert spec.pricing is not None
    assert spec.pricing.input_per_million_tokens == "2.50"
    assert hash(spec)  # the key of what is open for it


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "currency: USD",
            "currency: usd",
            "spec.pricing.currency: must be a currency's ISO 4217 code, three capital letters such as USD",
        ),
        ('"2.50"', "2.5", 'spec.pricing.inputPerMillionTokens: must be text; put it in quotes: "2.5"'),
        ('"2.50"', '"-1"', "spec.pricing.inputPerMillionTokens: must be between 0 and 100000"),
        ("X-Api-Key", "X Key", "spec.headersFrom[0].name: must be the name of an HTTP header"),
        ("X-Api-Key", "Host", 'spec.headersFrom[0].name: "Host" is set by the HTTP client; remove it'),
        (
            X_API_KEY,
            f"{X_API_KEY}\n  - {X_API_KEY.replace('X-Api', 'x-api')}",
            'spec.headersFrom[1].name: "x-api-Key" is in headersFrom[0] already; remove one of the two',
        ),
        (
            "  headersFrom:\n  - {name: X-Api-Key",
            "  credentialsSecretKeyRef: {name: llm, key: k}\n  headersFrom:\n  - {name: authorization",
            "spec.headersFrom[0].name: credentialsSecretKeyRef sends Authorization already",
        ),
        ("Minute: 600", "Minute: 0", "spec.limits.requestsPerMinute: must be at least 1"),
        ("contextTokens: 32768", "contextTokens: 1", "spec.contextTokens: must be at least 256"),
    ],
)  # fmt: skip
def test_a_wrong_field_says_so(old: str, new: str, problem: str) -> None:
    (found,) = problems(FULL.replace(old, new))
    assert found.startswith(problem)


def test_what_only_chat_models_have() -> None:
    fields = [p.partition(": ")[0] for p in problems(FULL.replace("type: Chat", "type: Embedding"))]
    assert fields == [
        "spec.contextTokens",
        "spec.fallbackRefs",
        "spec.pricing",
        "spec.limits.requestsPerMinute",
        "spec.limits.tokensPerMinute",
        "spec.limits.idleTimeoutSeconds",
    ]


def test_what_only_embedding_models_have() -> None:
    text = FULL.replace("  contextTokens", "  embedding: {dimensions: 256}\n  contextTokens")
    assert problems(text) == ["spec.embedding: only a model of type Embedding has embedding; remove it"]
    builtin = "metadata: {name: e}\nspec: {type: Embedding, provider: BuiltIn, embedding: {dimensions: 0}}\n"
    (problem,) = problems("apiVersion: agentteams.dev/v1alpha1\nkind: ModelConfig\n" + builtin)
    assert problem.startswith("spec.embedding.dimensions: ")


def test_a_rerank_model_is_at_an_endpoint_or_of_the_installation() -> None:
    head = "apiVersion: agentteams.dev/v1alpha1\nkind: ModelConfig\nmetadata: {name: r}\nspec: "
    endpoint = '{type: Rerank, provider: OpenAICompatible, model: r, endpoint: {url: "https://x.example/v2"}}'
    assert problems(head + endpoint) == []
    assert problems(head + "{type: Rerank, provider: BuiltIn}") == []
    key = "credentialsSecretKeyRef: {name: s, key: k}"
    assert problems(f"{head}{{type: Rerank, provider: OpenAI, model: r, {key}}}") == [
        "spec.provider: OpenAI serves no model of type Rerank; set provider: OpenAICompatible and "
        "endpoint: {url: …}, to which /rerank is added"
    ]
    (problem,) = problems(head + "{type: Rerank, provider: BuiltIn, embedding: {dimensions: 8}}")
    assert problem == "spec.embedding: only a model of type Embedding has embedding; remove it"


def test_the_model_of_the_installation_has_neither_headers_nor_certificates() -> None:
    built_in = FULL.replace("provider: OpenAICompatible\n  model: qwen3", "provider: BuiltIn")
    built_in = built_in.replace('  endpoint: {url: "https://models.example.com/v1"}\n', "")
    assert [p.partition(": ")[0] for p in problems(built_in)] == ["spec.headersFrom", "spec.tls"]


# --- several together ---------------------------------------------------------


def chat(name: str, *fallbacks: str, **spec: Any) -> dict[str, Any]:
    refs = {"fallbackRefs": [{"name": f} for f in fallbacks]} if fallbacks else {}
    return made("ModelConfig", name, {"type": "Chat", "provider": "BuiltIn", **refs, **spec})


def made(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "agentteams.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def team(**spec: Any) -> dict[str, Any]:
    return made("AgentTeam", "t", {"modelConfigRef": {"name": "chat"}, "members": [{"name": "a"}], **spec})


def price(currency: str) -> dict[str, Any]:
    prices = {"inputPerMillionTokens": "1", "outputPerMillionTokens": "2"}
    return {"pricing": {"currency": currency, **prices}}


def loaded(folder: Path, *objects: dict[str, Any]) -> Catalogue:
    (folder / "all.yaml").write_text(yaml.safe_dump_all(objects))
    catalogue = Catalogue(folder)
    catalogue.load()
    return catalogue


def test_the_chain_goes_depth_first_and_asks_nobody_twice(tmp_path: Path) -> None:
    catalogue = loaded(tmp_path, chat("chat", "b", "c"), chat("b", "d"), chat("c", "d", "gone"), chat("d"))
    first = catalogue.model("default", "chat")
    assert first is not None
    assert list(fallback_chain(first, lambda n: catalogue.model("default", n))) == ["b", "d", "c", "gone"]


def test_a_missing_fallback_of_a_fallback_makes_the_team_not_ready(tmp_path: Path) -> None:
    catalogue = loaded(tmp_path, chat("chat", "b"), chat("b", "gone"), team())
    (problem,) = catalogue.team_problems("default", "t")
    assert problem.startswith('ModelConfig default/b spec.fallbackRefs[0].name: no ModelConfig "gone"')


def test_a_fallback_has_the_same_type(tmp_path: Path) -> None:
    embed = made("ModelConfig", "embed", {"type": "Embedding", "provider": "BuiltIn"})
    catalogue = loaded(tmp_path, chat("chat", "embed"), embed, team())
    (problem,) = catalogue.team_problems("default", "t")
    assert 'ModelConfig "embed" has type Embedding, and Chat is needed here' in problem


def test_fallbacks_that_lead_back_are_refused(tmp_path: Path) -> None:
    catalogue = loaded(tmp_path, chat("chat", "chat", "b"), chat("b", "c"), chat("c", "b"), team())
    found = {f"{p.object} {p.field}: {p.message}" for p in catalogue.problems}
    assert found == {
        'ModelConfig default/chat spec.fallbackRefs[0].name: "chat" falls back to itself',
        'ModelConfig default/b spec.fallbackRefs[0].name: "c" leads back to "b"',
        'ModelConfig default/c spec.fallbackRefs[0].name: "b" leads back to "c"',
    }
    assert len(catalogue.team_problems("default", "t")) == 3


def test_all_models_of_a_team_have_one_currency(tmp_path: Path) -> None:
    euro = chat("euro", **price("EUR"))
    catalogue = loaded(tmp_path, chat("chat", "euro", **price("USD")), euro, team())
    (problem,) = catalogue.team_problems("default", "t")
    assert "prices in several currencies: chat in USD, euro in EUR" in problem
    members = [{"name": "a", "modelConfigRef": {"name": "euro"}}]
    catalogue = loaded(tmp_path, chat("chat", **price("USD")), euro, team(members=members))
    assert len(catalogue.team_problems("default", "t")) == 1
    assert loaded(tmp_path, chat("chat"), euro, team(members=members)).team_problems("default", "t") == []


def test_a_limit_of_cost_needs_every_price(tmp_path: Path) -> None:
    limited = team(limits={"maxCostPerRun": "0.50"})
    catalogue = loaded(tmp_path, chat("chat", "free", **price("USD")), chat("free"), limited)
    (problem,) = catalogue.team_problems("default", "t")
    assert problem.startswith(
        "spec.limits.maxCostPerRun: needs a price of each model that this team can reach"
    )
    assert "none is known of free" in problem
    catalogue = loaded(tmp_path, chat("chat", "free", **price("USD")), chat("free", **price("USD")), limited)
    assert catalogue.team_problems("default", "t") == []

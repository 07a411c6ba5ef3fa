"""ModelConfig: a model and how to reach it."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from manifests.base import (
    API_VERSION,
    Currency,
    Metadata,
    Model,
    ModelConfigRef,
    Price,
    Temperature,
    Threshold,
    Violation,
    refuse,
)
from manifests.cel import Cel, Checked
from manifests.secrets import HEADER_RULES, HeaderFrom, SecretKeyRef, header_violations
from manifests.sharing import AllowedNamespaces

ModelType = Literal["Chat", "Embedding", "Rerank"]
Provider = Literal["BuiltIn", "OpenAI", "OpenAICompatible"]


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        port_ok = False
        parts = urlsplit("")
    if parts.username or parts.password:
        raise PydanticCustomError(
            "url_credentials", "must not hold a user or a password; put the key into credentialsSecretKeyRef"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        raise PydanticCustomError("url", "must be a URL such as https://models.example.com/v1")
    if parts.query or parts.fragment:
        raise PydanticCustomError(
            "url", "must not have a query or a fragment; end it with the path, such as /v1"
        )
    return url


_URL = Cel(
    "self.matches('^https?://[^/?#@]+(/[^?#@]*)?$')",
    "must be a URL such as https://models.example.com/v1, without user, password, query or fragment; put "
    "the key into credentialsSecretKeyRef",
)


class Endpoint(Model):
    """Where a model is served."""

    url: Annotated[str, StringConstraints(max_length=2048), Checked(_check_url, _URL)] = Field(
        description="Base URL of an OpenAI-compatible API, with its version: https://models.example.com/v1."
    )


class Tls(Model):
    """How an endpoint is trusted."""

    ca_secret_key_ref: SecretKeyRef = Field(
        description="Where the certificates (PEM) of the only authorities are that may vouch for it."
    )


class Pricing(Model):
    """What tokens cost."""

    currency: Currency = Field(
        description="ISO 4217 code, such as USD. All models that a team can reach have the same."
    )
    input_per_million_tokens: Price = Field(
        description='Of tokens read, cached ones included. Decimal in quotes, "0" to "100000".'
    )
    output_per_million_tokens: Price = Field(
        description='Of tokens written, those of its reasoning included. Decimal in quotes, "0" to "100000".'
    )


class Parameters(Model):
    """Sent with every request of a chat model; what is absent is left to the endpoint."""

    temperature: Temperature | None = Field(default=None, description='Decimal in quotes, "0" to "2".')
    top_p: Threshold | None = Field(default=None, description='Decimal in quotes, "0" to "1".')
    max_output_tokens: int | None = Field(
        default=None, ge=1, le=131_072, description="Most tokens of one answer."
    )
    seed: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="For endpoints that can repeat an answer."
    )


class ModelLimits(Model):
    """How much a model is asked for, and for how long."""

    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Requests from one process, spread evenly: at most 10 seconds' worth at once, the others "
        "wait their turn. Only with type Chat. Default: no bound.",
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1000,
        le=1_000_000_000,
        description="Tokens sent and written from one process, spread as requestsPerMinute is. Only with "
        "type Chat. Default: no bound.",
    )
    timeout_seconds: int = Field(
        default=300,
        ge=1,
        le=3600,
        description="Longest time of one request, from when it is sent to the last byte of its answer.",
    )
    idle_timeout_seconds: int = Field(
        default=120,
        ge=1,
        le=3600,
        description="Longest silence within a request, before its first byte or between two. Only with type "
        "Chat.",
    )
    max_retries: int = Field(
        default=2, ge=0, le=10, description="Further attempts after a failure worth retrying."
    )
    max_concurrent: int = Field(
        default=32, ge=1, le=10_000, description="Requests at a time from one process."
    )


class EmbeddingOptions(Model):
    """How a model of type Embedding is used."""

    dimensions: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="Elements of a vector, fewer than the model's own. Only for models that were trained for "
        "it (Matryoshka); others refuse. Default: the model's own.",
    )


def _spec_rules() -> Iterator[Cel]:
    """The twin of ModelConfigSpec._violations."""
    instead = "remove it, or set provider: OpenAICompatible"
    builtin = f"must not be set with provider BuiltIn, whose model the installation provides; {instead}"
    for field in ("model", "endpoint", "credentialsSecretKeyRef"):
        yield Cel(f"self.provider != 'BuiltIn' || !has(self.{field})", builtin, f".{field}")
    yield Cel(
        "self.provider == 'BuiltIn' || has(self.model)",
        "is required unless the provider is BuiltIn; name the model",
        ".model",
    )
    yield Cel(
        "self.provider != 'OpenAICompatible' || has(self.endpoint)",
        "is required with provider OpenAICompatible; add endpoint: {url: https://…/v1}",
        ".endpoint",
    )
    yield Cel(
        "self.provider != 'OpenAI' || !has(self.endpoint)",
        f"must not be set with provider OpenAI; {instead}",
        ".endpoint",
    )
    yield Cel(
        "self.provider != 'OpenAI' || has(self.credentialsSecretKeyRef)",
        "is required with provider OpenAI; add credentialsSecretKeyRef: {name: SECRET, key: KEY}",
        ".credentialsSecretKeyRef",
    )
    parameters = " || ".join(f"has(self.parameters.{f.alias})" for f in Parameters.model_fields.values())
    idle = ModelLimits().idle_timeout_seconds
    for field, is_set in (
        ("parameters", f"has(self.parameters) && ({parameters})"),
        ("contextTokens", "has(self.contextTokens)"),
        ("fallbackRefs", "has(self.fallbackRefs) && self.fallbackRefs.size() > 0"),
        ("pricing", "has(self.pricing)"),
        ("limits.requestsPerMinute", "has(self.limits.requestsPerMinute)"),
        ("limits.tokensPerMinute", "has(self.limits.tokensPerMinute)"),
        ("limits.idleTimeoutSeconds", f"self.limits.idleTimeoutSeconds != {idle}"),
    ):
        message = f"only a model of type Chat has {field.rsplit('.', 1)[-1]}; remove it"
        yield Cel(f"self.type == 'Chat' || !({is_set})", message, f".{field}")
    yield Cel(
        "self.type != 'Rerank' || self.provider != 'OpenAI'",
        "OpenAI serves no model of type Rerank; set provider: OpenAICompatible and endpoint: {url: …}, to "
        "which /rerank is added",
        ".provider",
    )
    yield Cel(
        "self.type == 'Embedding' || !has(self.embedding) || !has(self.embedding.dimensions)",
        "only a model of type Embedding has embedding; remove it",
        ".embedding",
    )
    yield Cel(
        "self.provider != 'BuiltIn' || !has(self.headersFrom) || self.headersFrom.size() == 0",
        f"must not be set with provider BuiltIn, whose endpoint the installation provides; {instead}",
        ".headersFrom",
    )
    yield Cel(
        "!has(self.credentialsSecretKeyRef) || !has(self.headersFrom) || "
        "self.headersFrom.all(h, h.name.lowerAscii() != 'authorization')",
        "credentialsSecretKeyRef sends Authorization already; remove one of the two",
        ".headersFrom",
    )
    yield Cel(
        "self.provider == 'OpenAICompatible' || !has(self.tls)",
        f"only with provider OpenAICompatible: the certificate of the others is known; {instead}",
        ".tls",
    )


class ModelConfigSpec(Model):
    """What a ModelConfig asks for."""

    cel: ClassVar = (*_spec_rules(), *HEADER_RULES)

    type: ModelType = Field(
        description="Chat (writes text), Embedding (turns text into vectors) or Rerank (scores passages)."
    )
    provider: Provider = Field(
        description="BuiltIn: the model that the installation provides. OpenAI: api.openai.com. "
        "OpenAICompatible: any endpoint that speaks the same API."
    )
    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = Field(
        default=None, description="The model's name at its endpoint. Required unless the provider is BuiltIn."
    )
    endpoint: Endpoint | None = Field(
        default=None, description="Required with OpenAICompatible, and only there."
    )
    credentials_secret_key_ref: SecretKeyRef | None = Field(
        default=None,
        description="Where the API key is. Required with OpenAI, optional with OpenAICompatible.",
    )
    parameters: Parameters = Field(
        default_factory=Parameters, description="How the model samples. Only with type Chat."
    )
    context_tokens: int | None = Field(
        default=None,
        ge=256,
        le=10_000_000,
        description="How many tokens the model can read and write in one call. Only with type Chat. Default: "
        "not known, and nothing is left out of a prompt for it.",
    )
    headers_from: tuple[HeaderFrom, ...] = Field(
        default=(),
        max_length=16,
        description="Headers sent with every request, their values from Secrets. Not with BuiltIn.",
    )
    embedding: EmbeddingOptions = Field(
        default_factory=EmbeddingOptions, description="How vectors are made. Only with type Embedding."
    )
    tls: Tls | None = Field(
        default=None, description="How the endpoint is trusted. Only with OpenAICompatible."
    )
    limits: ModelLimits = Field(
        default_factory=ModelLimits, description="Time, retries, concurrency and rates."
    )
    fallback_refs: tuple[ModelConfigRef, ...] = Field(
        default=(),
        max_length=8,
        description="ModelConfigs of the same type that are asked in this order when this one cannot answer, "
        "each followed by its own. Another namespace asks those of them that allow it too. Only with type "
        "Chat: vectors of two models do not compare.",
    )
    pricing: Pricing | None = Field(
        default=None, description="What its tokens cost. Only with type Chat. Default: not known."
    )
    allowed_namespaces: AllowedNamespaces = Field(
        default_factory=AllowedNamespaces,
        description="Which other namespaces may use the model, by modelConfigRef.namespace and the like. The "
        "keys of a model of type Chat are copied into a Secret of each namespace whose teams use it: who "
        "reads Secrets there can read them, and keeps what was read when the permission ends. The keys of "
        "other types, and of judges, stay with the installation. Only on a cluster.",
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        if self.provider == "BuiltIn":
            for field, value in (
                ("model", self.model),
                ("endpoint", self.endpoint),
                ("credentialsSecretKeyRef", self.credentials_secret_key_ref),
            ):
                if value is not None:
                    yield Violation(
                        (field,),
                        "must not be set with provider BuiltIn, whose model the installation provides",
                        "remove it, or set provider: OpenAICompatible",
                    )
        elif self.model is None:
            yield Violation(("model",), f"is required with provider {self.provider}", "name the model")
        if self.provider == "OpenAICompatible" and self.endpoint is None:
            yield Violation(
                ("endpoint",),
                "is required with provider OpenAICompatible",
                "add endpoint: {url: https://…/v1}",
            )
        if self.provider == "OpenAI":
            if self.endpoint is not None:
                yield Violation(
                    ("endpoint",),
                    "must not be set with provider OpenAI",
                    "remove it, or set provider: OpenAICompatible",
                )
            if self.credentials_secret_key_ref is None:
                yield Violation(
                    ("credentialsSecretKeyRef",),
                    "is required with provider OpenAI",
                    "add credentialsSecretKeyRef: {name: SECRET, key: KEY}",
                )
        if self.type != "Chat":
            yield from self._chat_only()
        if self.type == "Rerank" and self.provider == "OpenAI":
            yield Violation(
                ("provider",),
                "OpenAI serves no model of type Rerank",
                "set provider: OpenAICompatible and endpoint: {url: …}, to which /rerank is added",
            )
        if self.type != "Embedding" and self.embedding != EmbeddingOptions():
            yield Violation(("embedding",), "only a model of type Embedding has embedding", "remove it")
        yield from self._header_violations()
        if self.tls is not None and self.provider != "OpenAICompatible":
            yield Violation(
                ("tls",),
                f"must not be set with provider {self.provider}, whose certificate is known",
                "remove it, or set provider: OpenAICompatible",
            )

    def _chat_only(self) -> Iterator[Violation]:
        limits, defaults = self.limits, ModelLimits()
        for field, is_set in (
            (("parameters",), self.parameters != Parameters()),
            (("contextTokens",), self.context_tokens is not None),
            (("fallbackRefs",), bool(self.fallback_refs)),
            (("pricing",), self.pricing is not None),
            (("limits", "requestsPerMinute"), limits.requests_per_minute is not None),
            (("limits", "tokensPerMinute"), limits.tokens_per_minute is not None),
            (("limits", "idleTimeoutSeconds"), limits.idle_timeout_seconds != defaults.idle_timeout_seconds),
        ):
            if is_set:
                yield Violation(field, f"only a model of type Chat has {field[-1]}", "remove it")

    def _header_violations(self) -> Iterator[Violation]:
        if self.headers_from and self.provider == "BuiltIn":
            yield Violation(
                ("headersFrom",),
                "must not be set with provider BuiltIn, whose endpoint the installation provides",
                "remove it, or set provider: OpenAICompatible",
            )
        yield from header_violations(self.headers_from, "headersFrom")
        for index, header in enumerate(self.headers_from):
            if header.name.lower() == "authorization" and self.credentials_secret_key_ref is not None:
                yield Violation(
                    ("headersFrom", index, "name"),
                    "credentialsSecretKeyRef sends Authorization already",
                    "remove one of the two",
                )


class ModelConfig(Model):
    """A model and how to reach it."""

    api_version: Literal["agentteams.dev/v1alpha1"] = Field(default=API_VERSION, description="Always this.")
    kind: Literal["ModelConfig"] = Field(default="ModelConfig", description="Always this.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: ModelConfigSpec = Field(description="What is asked for.")

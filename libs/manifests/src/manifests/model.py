"""ModelConfig: a model and how to reach it."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from manifests.base import (
    API_VERSION,
    SECRET_KEY_PATTERN,
    SECRET_NAME_PATTERN,
    Metadata,
    Model,
    Temperature,
    Threshold,
    Violation,
    refuse,
)

ModelType = Literal["Chat", "Embedding"]
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


class Endpoint(Model):
    """Where a model is served."""

    url: Annotated[str, StringConstraints(max_length=2048), AfterValidator(_check_url)] = Field(
        description="Base URL of an OpenAI-compatible API, with its version: https://models.example.com/v1."
    )


class SecretKeyRef(Model):
    """Refers to one key of a Secret of the same namespace."""

    name: Annotated[str, StringConstraints(pattern=SECRET_NAME_PATTERN)] = Field(
        description="Name of the Secret. In local mode: a folder below the secrets folder."
    )
    key: Annotated[str, StringConstraints(pattern=SECRET_KEY_PATTERN)] = Field(
        description="Key within the Secret. In local mode: a file in that folder."
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

    timeout_seconds: int = Field(default=120, ge=1, le=3600, description="Longest wait for one request.")
    max_retries: int = Field(
        default=2, ge=0, le=10, description="Further attempts after a failure worth retrying."
    )
    max_concurrent: int = Field(
        default=32, ge=1, le=10_000, description="Requests at a time from one process."
    )


class ModelConfigSpec(Model):
    """What a ModelConfig asks for."""

    type: ModelType = Field(description="Chat (writes text) or Embedding (turns text into vectors).")
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
    limits: ModelLimits = Field(default_factory=ModelLimits, description="Time, retries and concurrency.")

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
        if self.type == "Embedding" and self.parameters != Parameters():
            yield Violation(("parameters",), "only a model of type Chat has parameters", "remove it")


class ModelConfig(Model):
    """A model and how to reach it."""

    api_version: Literal["agentteams.dev/v1alpha1"] = Field(default=API_VERSION, description="Always this.")
    kind: Literal["ModelConfig"] = Field(default="ModelConfig", description="Always this.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: ModelConfigSpec = Field(description="What is asked for.")

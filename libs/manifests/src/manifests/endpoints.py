"""Where a ModelConfig's model is served and how to ask it: read once, for every service that asks models.

Which client asks is the service's business: nothing of any is imported here.
"""

import json
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from manifests.model import ModelConfig, ModelConfigSpec
from manifests.secret_files import read_secret_file
from manifests.secrets import SecretKeyRef

OPENAI_URL = "https://api.openai.com/v1"
CONNECT_S = 5.0
SHARED_MODELS = "agentteams-shared-models"
"""The Secret in which the operator gives a namespace the models of others that it may use."""
_NO_KEY = "none"  # OpenAI's client insists on a key; endpoints without one ignore it


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEndpoint:
    """Where a model is served, and how to ask. Equal ones can share a client.

    Attributes:
        model: Its name there.
        api_key: Empty: none is needed.
        authorities: Certificates (PEM) of those that may vouch for it; empty: the system's.
    """

    url: str
    model: str
    api_key: str = field(default="", repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    authorities: str = field(default="", repr=False)

    @property
    def client_options(self) -> dict[str, Any]:
        """What OpenAI's client is told of it. Repeating a request is the caller's business."""
        return {
            "base_url": self.url,
            "api_key": self.api_key or _NO_KEY,
            "max_retries": 0,
            "default_headers": dict(self.headers),
        }


class EndpointUnusable(LookupError):
    """Nobody can tell where the model is, or how to ask; the text says why, never what a Secret holds.

    Attributes:
        metadata: The ModelConfig, and the Secret and key if it is about one.
    """

    def __init__(self, config: ModelConfig, why: str, ref: SecretKeyRef | None = None) -> None:
        super().__init__(f"ModelConfig {config.metadata.name}: {why}")
        secret = {} if ref is None else {"secret": ref.name, "key": ref.key}
        self.metadata = {"model": config.metadata.name, "namespace": config.metadata.namespace, **secret}


class Secrets(Protocol):
    """Values of Secrets."""

    def read(self, namespace: str, ref: SecretKeyRef, *, lines: bool = False) -> str:
        """What a header can carry, or with `lines` any text. Raises LookupError that says why not."""
        ...


class SecretFiles:
    """`Secrets` as files.

    Args:
        folder: None: there are none.
        by_namespace: As of `read_secret_file`.
        own: The only namespace whose Secrets are mounted by themselves; those of models of others are in
            SHARED_MODELS. Empty: all are.
    """

    def __init__(self, folder: Path | None, *, by_namespace: bool = False, own: str = "") -> None:
        self._folder = folder
        self._by_namespace = by_namespace
        self._own = own

    def read(self, namespace: str, ref: SecretKeyRef, *, lines: bool = False) -> str:
        """See Secrets. A rotated Secret is read anew."""
        folder, by_namespace = self._folder, self._by_namespace
        if self._own and namespace != self._own and folder is not None:
            folder, by_namespace = folder / SHARED_MODELS, True
        return read_secret_file(
            folder, namespace, (ref.name, ref.key), by_namespace=by_namespace, lines=lines
        )


def shared_model_key(namespace: str, name: str) -> str:
    """The key in SHARED_MODELS that holds the spec of a ModelConfig. No name has a dot, and no namespace."""
    return f"model.{namespace}.{name}"


def shared_models(folder: Path | None) -> dict[tuple[str, str], Any]:
    """The specs that are in SHARED_MODELS as it is mounted below that folder, by namespace and name."""
    found: dict[tuple[str, str], Any] = {}
    mounted = None if folder is None else folder / SHARED_MODELS
    if mounted is None or not mounted.is_dir():
        return found
    for path in sorted(mounted.glob("model.*.*")):
        _, namespace, name = path.name.split(".")
        found[namespace, name] = json.loads(path.read_bytes())
    return found


def endpoint_url(spec: ModelConfigSpec) -> str:
    """The base URL; not of a BuiltIn model."""
    return OPENAI_URL if spec.endpoint is None else spec.endpoint.url


def has_secrets(spec: ModelConfigSpec) -> bool:
    """Whether anything of it is in a Secret: a file to be read."""
    return bool(spec.credentials_secret_key_ref or spec.headers_from or spec.tls)


def endpoint_of(
    config: ModelConfig, secrets: Secrets, *, built_in: ModelEndpoint | None = None
) -> ModelEndpoint:
    """Where it is served. Reads its Secrets: of files, so not on an event loop that must not wait.

    Args:
        built_in: What `provider: BuiltIn` means here; None: nothing.

    Raises:
        EndpointUnusable: A Secret of it is missing or cannot be sent, or there is no built-in model.
    """
    spec = config.spec
    if spec.provider == "BuiltIn":
        if built_in is None:
            words = (
                "this installation provides no chat model; set AGENTTEAMS_BUILTIN_CHAT_URL, or provider: "
                "OpenAICompatible with an endpoint"
            )
            raise EndpointUnusable(config, words)
        return built_in

    def value(ref: SecretKeyRef | None, *, lines: bool = False) -> str:
        if ref is None:
            return ""
        try:
            return secrets.read(config.metadata.namespace, ref, lines=lines)
        except LookupError as error:
            raise EndpointUnusable(config, str(error.args[0]), ref) from error

    return ModelEndpoint(
        url=endpoint_url(spec),
        model=spec.model or "",
        api_key=value(spec.credentials_secret_key_ref),
        headers=tuple((header.name, value(header.value_from.secret_key_ref)) for header in spec.headers_from),
        authorities="" if spec.tls is None else value(spec.tls.ca_secret_key_ref, lines=True),
    )


def trust_of(config: ModelConfig, endpoint: ModelEndpoint) -> ssl.SSLContext | None:
    """Whom to trust there; None: whom the system does. Raises EndpointUnusable."""
    if not endpoint.authorities:
        return None
    try:
        return trusting(endpoint.authorities)
    except ValueError as error:
        ref = None if config.spec.tls is None else config.spec.tls.ca_secret_key_ref
        raise EndpointUnusable(config, str(error), ref) from error


def trusting(authorities: str) -> ssl.SSLContext:
    """Trusts those certificates (PEM) and no others. Raises ValueError: there are none in the text."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=authorities)
    except ssl.SSLError as error:
        raise ValueError("tls.caSecretKeyRef: that key holds no certificates (PEM)") from error
    return context

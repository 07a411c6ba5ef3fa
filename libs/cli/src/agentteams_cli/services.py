"""What the stack runs: the command and the settings of each service."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agentteams_cli import readiness
from agentteams_cli.ports import DEFAULT_PORTS, HOST, Port
from agentteams_cli.state import StateFolder

LOCAL_CHAT = "local"
# Less than the ten seconds after which a child that was told to stop is killed.
GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model behind an OpenAI-compatible API."""

    url: str
    model: str
    api_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """How to run everything on this machine.

    Attributes:
        state_dir: Where everything is kept.
        chat: What the BuiltIn chat model is: an endpoint, or "local" for a model server of our own.
        embedding: What the BuiltIn embedding model is: a folder with an ONNX model, or an endpoint.
        ports: By service; those not named get their defaults, 0 picks a free one.
        chat_model: Which model the local chat server runs; empty: the best that fits.
        extra_env: Added to every service's environment.
        log_level: debug, info, warning or error.
        start_timeout_s: How long all services together may take to become ready.
    """

    state_dir: Path
    chat: Endpoint | Literal["local"]
    embedding: Path | Endpoint
    ports: Mapping[str, int] = field(default_factory=dict)
    chat_model: str = ""
    extra_env: Mapping[str, str] = field(default_factory=dict)
    log_level: str = "info"
    start_timeout_s: float = 120.0

    @property
    def with_local_chat(self) -> bool:
        """Whether a chat model server is one of the services."""
        return self.chat == LOCAL_CHAT

    @property
    def services(self) -> dict[str, int]:
        """Every service with the port that is wanted for it."""
        names = [n for n in DEFAULT_PORTS if n != "chat" or self.with_local_chat]
        return {name: self.ports.get(name, DEFAULT_PORTS[name]) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """One child process."""

    name: str
    command: tuple[str, ...]
    """Without the interpreter's own arguments for a module: an absolute path first."""
    env: Mapping[str, str] = field(repr=False)
    port: Port
    probe: readiness.Probe


def plan(config: StackConfig, ports: Mapping[str, Port]) -> list[ServiceSpec]:
    """All services in the order in which they need one another."""
    state = StateFolder(config.state_dir.absolute())
    targets = {name: f"{HOST}:{port.port}" for name, port in ports.items()}
    base = _base_env(state) | dict(config.extra_env)
    specs = [_milvus(state, ports["milvus"], base)]
    if config.with_local_chat:
        specs.append(_chat(config, ports["chat"], base))
    settings = {
        "embedding": _embedding_env(config, state),
        "session": {
            "SESSION_DATABASE_URL": f"sqlite:///{state.databases / 'session.db'}",
            "SESSION_AUTO_MIGRATE": "1",
        },
        "retrieval": {
            "MILVUS_URI": f"http://{targets['milvus']}",
            "DATABASE_URL": f"sqlite+aiosqlite:///{state.databases / 'retrieval.db'}",
            "AUTO_MIGRATE": "1",
            "BLOB_DIR": str(state.blobs),
            "SOURCE_ROOT": str(state.sources),
            "EMBEDDING_TARGET": targets["embedding"],
        }
        | _tokenizer_env(config),
        "orchestrator": {
            "SESSION_TARGET": targets["session"],
            "RETRIEVAL_TARGET": targets["retrieval"],
            "EMBEDDING_TARGET": targets["embedding"],
            "MANIFESTS_DIR": str(state.manifests),
            "SECRETS_DIR": str(state.secrets),
            "PYTHON_TOOLS_DIR": str(state.python_tools),
        }
        | _chat_env(config, targets),
        "evaluation": {
            "SESSION_TARGET": targets["session"],
            "EMBEDDING_TARGET": targets["embedding"],
            "ORCHESTRATOR_TARGET": targets["orchestrator"],
            "MANIFESTS_DIR": str(state.manifests),
            "SECRETS_DIR": str(state.secrets),
        }
        | _judge_env(config, targets),
        "gateway": {
            "ORCHESTRATOR_TARGET": targets["orchestrator"],
            "SESSION_TARGET": targets["session"],
        },
    }
    for name, own in settings.items():
        common = {
            "HOST": HOST,
            "PORT": str(ports[name].port),
            "METRICS_PORT": str(ports[name].metrics),
            "IDENTITY_KEY_FILE": str(state.identity_key),
            "LOG_LEVEL": config.log_level,
            "GRACE_S": str(GRACE_S),
        }
        specs.append(
            ServiceSpec(
                name=name,
                command=_module(name),
                env=base | {f"AGENTTEAMS_{key}": value for key, value in (common | own).items()},
                port=ports[name],
                probe=readiness.http_ok("/readyz") if name == "gateway" else readiness.grpc_health,
            )
        )
    return specs


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    # -P: a file named session.py in the folder that `up` was called from is not our service.
    return (sys.executable, "-P", "-m", name, *arguments)


def _milvus(state: StateFolder, port: Port, base: Mapping[str, str]) -> ServiceSpec:
    # One worker: Milvus Lite loses acknowledged rows under concurrent writers. Always a host: its default
    # is every interface.
    arguments = ("server", "--data-dir", str(state.milvus), "--host", HOST, "--port", str(port.port))
    return ServiceSpec(
        name="milvus",
        command=_module("milvus_lite", *arguments, "--max-workers", "1"),
        env=base,
        port=port,
        probe=readiness.milvus,
    )


def _chat(config: StackConfig, port: Port, base: Mapping[str, str]) -> ServiceSpec:
    model = ("--model", config.chat_model) if config.chat_model else ()
    own = {k: v for k, v in os.environ.items() if k == "XDG_CACHE_HOME" or k in _MODEL_SETTINGS}
    env = {k: v for k, v in base.items() if k != "XDG_CACHE_HOME"} | own | _PASSIVE_THREADS
    return ServiceSpec(
        name="chat",
        command=_module("localmodel", "serve", "--host", HOST, "--port", str(port.port), *model),
        env=env,
        port=port,
        probe=readiness.http_ok("/healthz"),
    )


_MODEL_SETTINGS = (
    "AGENTTEAMS_CACHE",
    "AGENTTEAMS_CHAT_MODEL",
    "AGENTTEAMS_CHAT_MODEL_PATH",
    "AGENTTEAMS_CHAT_MODEL_SHA256",
)
_LOCAL_CONTEXT_TOKENS = 4096  # of one slot of the local model's server
# Threads that wait by spinning starve every other process on a small machine.
_PASSIVE_THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def _embedding_env(config: StackConfig, state: StateFolder) -> dict[str, str]:
    common = {"MANIFESTS_DIR": str(state.manifests), "SECRETS_DIR": str(state.secrets)}
    if isinstance(config.embedding, Path):
        return common | {"BUILTIN_EMBEDDING_DIR": str(config.embedding.absolute())}
    return common | {
        "BUILTIN_EMBEDDING_URL": config.embedding.url,
        "BUILTIN_EMBEDDING_MODEL": config.embedding.model,
        "BUILTIN_EMBEDDING_API_KEY": config.embedding.api_key,
    }


def _tokenizer_env(config: StackConfig) -> dict[str, str]:
    if isinstance(config.embedding, Path):
        return {"TOKENIZER_FILE": str(config.embedding.absolute() / "tokenizer.json")}
    return {}


def _chat_env(config: StackConfig, targets: Mapping[str, str]) -> dict[str, str]:
    if isinstance(config.chat, Endpoint):
        url, model, key = config.chat.url, config.chat.model, config.chat.api_key
        return {"BUILTIN_CHAT_URL": url, "BUILTIN_CHAT_MODEL": model, "BUILTIN_CHAT_API_KEY": key}
    return {
        "BUILTIN_CHAT_URL": f"http://{targets['chat']}/v1",
        "BUILTIN_CHAT_MODEL": config.chat_model or "local",
        "BUILTIN_CHAT_API_KEY": "",
        "BUILTIN_CHAT_CONTEXT_TOKENS": str(_LOCAL_CONTEXT_TOKENS),
    }


def _judge_env(config: StackConfig, targets: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in _chat_env(config, targets).items() if k != "BUILTIN_CHAT_CONTEXT_TOKENS"}


def _base_env(state: StateFolder) -> dict[str, str]:
    """The user's environment without what is meant for `up` itself; keys go only to who needs them."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AGENTTEAMS_", "OPENAI_"))}
    return kept | {
        "PYTHONUNBUFFERED": "1",
        # What libraries keep for themselves stays with our state, not in the home folder.
        "XDG_CACHE_HOME": str(state.cache),
        "XDG_CONFIG_HOME": str(state.cache),
        "XDG_DATA_HOME": str(state.cache),
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

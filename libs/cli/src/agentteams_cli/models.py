"""Which models BuiltIn stands for: an endpoint of the user's, or local ones."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentteams_cli.console import Output
from agentteams_cli.errors import CliError
from agentteams_cli.services import Endpoint
from localmodel import assets

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_CHAT_MODEL = "gpt-4o-mini"
OPENAI_EMBEDDING_MODEL = "text-embedding-3-small"
LOCAL = "local"
"""As OPENAI_EMBEDDING_MODEL: the endpoint is for chat only, which is all that many have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIn:
    """What the manifests' provider BuiltIn means on this machine."""

    chat: Endpoint | Literal["local"]
    embedding: Path | Endpoint
    chat_model: str
    """Name of the local chat model; empty with an endpoint."""
    why: str
    """A sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """What the environment names."""

    chat: Endpoint
    embedding: Endpoint | None
    """None: the local model."""

    @property
    def why(self) -> str:
        """A sentence for the user."""
        models = f"{self.chat.model} at {self.chat.url} and the local model for embeddings"
        if self.embedding is not None:
            models = f"{self.chat.model} and {self.embedding.model} at {self.chat.url}"
        return f"{models}, because OPENAI_API_KEY is set"


def from_environment(environment: Mapping[str, str] = os.environ) -> Remote | None:
    """The endpoint of OPENAI_API_KEY; None without one."""
    key = environment.get("OPENAI_API_KEY", "").strip()
    if not key:
        return None
    url = environment.get("OPENAI_BASE_URL", "").strip() or OPENAI_URL
    chat = environment.get("OPENAI_MODEL", "").strip() or OPENAI_CHAT_MODEL
    embedding = environment.get("OPENAI_EMBEDDING_MODEL", "").strip() or OPENAI_EMBEDDING_MODEL
    return Remote(
        chat=Endpoint(url=url, model=chat, api_key=key),
        embedding=None if embedding == LOCAL else Endpoint(url=url, model=embedding, api_key=key),
    )


async def provide(output: Output) -> BuiltIn:
    """The models to use; local ones are fetched into the model cache first.

    Raises:
        CliError: A model cannot be had.
    """
    remote = from_environment()
    if remote is not None and remote.embedding is not None:
        return BuiltIn(chat=remote.chat, embedding=remote.embedding, chat_model="", why=remote.why)
    with output.progress(is_bytes=True) as bar:
        try:
            embedding = await asyncio.to_thread(assets.ensure_embedding_model, bar)
            if remote is not None:
                return BuiltIn(chat=remote.chat, embedding=embedding, chat_model="", why=remote.why)
            prepared = await asyncio.to_thread(assets.prepare_chat_model, bar)
        except assets.AssetError as exc:
            raise CliError(
                f"no local model: {exc}",
                fix="or set OPENAI_API_KEY, and OPENAI_EMBEDDING_MODEL to a model of that endpoint",
            ) from exc
    return BuiltIn(
        chat="local",
        embedding=embedding,
        chat_model=prepared.choice.model,
        why=prepared.choice.why,
    )

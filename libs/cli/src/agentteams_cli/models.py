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


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIn:
    """What the manifests' provider BuiltIn means on this machine."""

    chat: Endpoint | Literal["local"]
    embedding: Path | Endpoint
    chat_model: str
    """Name of the local chat model; empty with an endpoint."""
    why: str
    """A sentence for the user."""


def from_environment(environment: Mapping[str, str] = os.environ) -> BuiltIn | None:
    """The endpoint of OPENAI_API_KEY; None without one."""
    key = environment.get("OPENAI_API_KEY", "").strip()
    if not key:
        return None
    url = environment.get("OPENAI_BASE_URL", "").strip() or OPENAI_URL
    chat = environment.get("OPENAI_MODEL", "").strip() or OPENAI_CHAT_MODEL
    embedding = environment.get("OPENAI_EMBEDDING_MODEL", "").strip() or OPENAI_EMBEDDING_MODEL
    return BuiltIn(
        chat=Endpoint(url=url, model=chat, api_key=key),
        embedding=Endpoint(url=url, model=embedding, api_key=key),
        chat_model="",
        why=f"{chat} and {embedding} at {url}, because OPENAI_API_KEY is set",
    )


async def provide(output: Output) -> BuiltIn:
    """The models to use; local ones are fetched into the model cache first.

    Raises:
        CliError: A model cannot be had.
    """
    remote = from_environment()
    if remote is not None:
        return remote
    with output.progress(is_bytes=True) as bar:
        try:
            embedding = await asyncio.to_thread(assets.ensure_embedding_model, bar)
            prepared = await asyncio.to_thread(assets.prepare_chat_model, bar)
        except assets.AssetError as exc:
            raise CliError(
                f"no local model: {exc}", fix="or set OPENAI_API_KEY to use an endpoint instead"
            ) from exc
    return BuiltIn(
        chat="local",
        embedding=embedding,
        chat_model=prepared.choice.model,
        why=prepared.choice.why,
    )

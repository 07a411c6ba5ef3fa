"""Settings, read from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from embedding.core.ports import LocalSource, RemoteSource, Source
from manifests.endpoints import OPENAI_URL
from servicekit.config import ServerSettings


class Settings(ServerSettings):
    """Variables with the prefix AGENTTEAMS_, such as AGENTTEAMS_BUILTIN_EMBEDDING_DIR."""

    # A refused setting is logged, and one of them is a key.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    builtin_embedding_dir: Path | None = Field(
        None, description="Built-in model: folder with model.onnx, tokenizer.json, config.json."
    )
    builtin_embedding_url: str = Field(
        OPENAI_URL, description="Built-in model: base URL of an OpenAI-compatible endpoint."
    )
    builtin_embedding_model: str | None = Field(
        None, description="Built-in model: its name at that endpoint; set this or the folder."
    )
    builtin_embedding_api_key: SecretStr | None = Field(None, description="Key for that endpoint.")
    builtin_rerank_dir: Path | None = Field(
        None, description="Built-in rerank model: folder with model.onnx, tokenizer.json, config.json."
    )
    manifests_dir: Path | None = Field(
        None, description="Folder of ModelConfigs; none: there is only models/builtin."
    )
    manifests_cluster: bool = Field(
        False, description="Follow the ModelConfigs of every namespace of the cluster instead of a folder."
    )
    secrets_dir: Path | None = Field(
        None,
        description="Secrets of ModelConfigs: files <name>/<key>; on a cluster <namespace>__<name>__<key>.",
    )
    embedding_threads: int = Field(2, ge=1, le=64, description="Batches of the local model at a time.")
    embedding_max_queued_texts: int = Field(
        2048, ge=1, description="Texts that wait or are embedded at a time, for each model."
    )

    embedding_gather_ms: int = Field(
        10,
        ge=0,
        le=1000,
        description="How long a text waits for others to share a request to an endpoint, while another "
        "request is on its way; 0: not at all.",
    )
    embedding_cache_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Vectors that are remembered, in bytes; 0: none are."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.manifests_dir is not None and self.manifests_cluster:
            raise ValueError("AGENTTEAMS_MANIFESTS_DIR and AGENTTEAMS_MANIFESTS_CLUSTER are both set: choose")
        return self

    @model_validator(mode="after")
    def _one_builtin(self) -> Self:
        if self.builtin_embedding_dir is not None and self.builtin_embedding_model is not None:
            raise ValueError(
                "AGENTTEAMS_BUILTIN_EMBEDDING_DIR and AGENTTEAMS_BUILTIN_EMBEDDING_MODEL are both set: "
                "the built-in model is either a local folder or a model at an endpoint"
            )
        return self

    def builtin_rerank(self) -> Source | None:
        """Where the built-in rerank model is; None: this installation has none."""
        return None if self.builtin_rerank_dir is None else LocalSource(folder=self.builtin_rerank_dir)

    def builtin(self) -> Source | None:
        """Where the built-in model is; None: this installation has none."""
        if self.builtin_embedding_dir is not None:
            return LocalSource(folder=self.builtin_embedding_dir)
        if self.builtin_embedding_model is None:
            return None
        key = self.builtin_embedding_api_key
        return RemoteSource(
            url=self.builtin_embedding_url,
            model=self.builtin_embedding_model,
            api_key=key.get_secret_value() if key is not None else "",
        )

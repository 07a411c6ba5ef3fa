"""What the user may set about models; the only place that reads the environment for them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localmodel.assets.catalog import CHAT_MODELS, EXTRACTIVE, LOCAL_FILE
from localmodel.errors import InvalidConfiguration


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetSettings:
    """Where model files are kept and which the user asked for.

    Attributes:
        cache: The cache folder.
        chat_model: A forced chat model, or None to choose.
        chat_model_path: A GGUF file to use in place of fetching one.
        chat_model_sha256: The hash of that file, where it is none of the known models.
        embedding_model_path: A folder with model.onnx, tokenizer.json, config.json.
    """

    cache: Path
    chat_model: str | None = None
    chat_model_path: Path | None = None
    chat_model_sha256: str | None = None
    embedding_model_path: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "AssetSettings":
        """Reads AGENTTEAMS_CACHE, _CHAT_MODEL, _CHAT_MODEL_PATH, _CHAT_MODEL_SHA256, _EMBEDDING_MODEL_PATH.

        Raises:
            InvalidConfiguration: AGENTTEAMS_CHAT_MODEL is no model.
        """
        chat_model = environment.get("AGENTTEAMS_CHAT_MODEL") or None
        known = [*(model.name for model in CHAT_MODELS), EXTRACTIVE, LOCAL_FILE]
        if chat_model is not None and chat_model not in known:
            raise InvalidConfiguration(f"AGENTTEAMS_CHAT_MODEL={chat_model!r}: use one of {', '.join(known)}")
        return cls(
            cache=_cache_folder(environment),
            chat_model=chat_model,
            chat_model_path=_path(environment.get("AGENTTEAMS_CHAT_MODEL_PATH")),
            chat_model_sha256=(environment.get("AGENTTEAMS_CHAT_MODEL_SHA256") or "").strip().lower() or None,
            embedding_model_path=_path(environment.get("AGENTTEAMS_EMBEDDING_MODEL_PATH")),
        )


def _cache_folder(environment: Mapping[str, str]) -> Path:
    if own := _path(environment.get("AGENTTEAMS_CACHE")):
        return own
    base = _path(environment.get("XDG_CACHE_HOME")) or Path.home() / ".cache"
    return base / "agentteams"


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None

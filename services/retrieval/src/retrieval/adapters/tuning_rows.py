"""Measurements to JSON and back."""

import json
from collections.abc import Mapping
from typing import Any

from retrieval.core.index import BuiltIndex
from retrieval.core.model import IndexType
from retrieval.core.tuning.model import CurvePoint, Measurement


def params_from_text(text: str) -> dict[str, int]:
    """Search parameters as they are stored."""
    return {str(name): int(value) for name, value in json.loads(text or "{}").items()}


def params_to_text(params: Mapping[str, int]) -> str:
    """The other way."""
    return json.dumps(dict(params))


def measured_to_text(measured: Measurement) -> str:
    """One JSON object."""
    return json.dumps(
        {
            "collection": measured.collection,
            "index": _index(measured.index),
            "search_params": dict(measured.search_params),
            "chunk_count": measured.chunk_count,
            "segments": measured.segments,
            "queries": measured.queries,
            "real_queries": measured.real_queries,
            "recall": measured.recall,
            "p50_s": measured.p50_s,
            "p99_s": measured.p99_s,
            "message": measured.message,
            "curve": [
                {
                    "index": _index(point.index),
                    "search_params": dict(point.search_params),
                    "recall": point.recall,
                    "p50_s": point.p50_s,
                    "p99_s": point.p99_s,
                }
                for point in measured.curve
            ],
        }
    )


def measured_from_text(text: str | None) -> Measurement | None:
    """None: nothing was measured yet."""
    if not text:
        return None
    read = json.loads(text)
    curve = tuple(
        CurvePoint(**(point | {"index": _read_index(point["index"])})) for point in read.pop("curve")
    )
    return Measurement(**(read | {"index": _read_index(read["index"]), "curve": curve}))


def _index(index: BuiltIndex) -> dict[str, Any]:
    return {"type": int(index.type), "build_params": dict(index.build_params)}


def _read_index(value: dict[str, Any]) -> BuiltIndex:
    return BuiltIndex(type=IndexType(value["type"]), build_params=value["build_params"])

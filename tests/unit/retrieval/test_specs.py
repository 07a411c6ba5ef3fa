"""Knowledge bases as requests ask for them: bounds, updates, and what cannot change."""

from dataclasses import replace
from typing import Any

import pytest
from agentteams.retrieval.v1 import knowledge_base_pb2 as pb
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from retrieval.convert_spec import spec_from_pb, spec_to_pb, updated
from retrieval.core.model import (
    IndexPolicy,
    KnowledgeBase,
    KnowledgeBaseSpec,
    MetadataField,
    MetadataType,
    SearchMode,
    Tenancy,
)
from retrieval.core.search_options import SearchDefaults, Weighted
from retrieval.core.spec_changes import refuse_changes
from servicekit.errors import FailedPrecondition, InvalidArgument
from tests.support.specs import FULL, PLAIN, knowledge_base


def message(fields: dict[str, Any]) -> pb.KnowledgeBase:
    return json_format.ParseDict({"embedding_model": "models/m"} | fields, pb.KnowledgeBase())


def test_defaults_are_filled_in() -> None:
    assert spec_from_pb(message({})) == PLAIN


@pytest.mark.parametrize("spec", [PLAIN, FULL], ids=["plain", "full"])
def test_a_spec_keeps_its_values_on_the_wire(spec: KnowledgeBaseSpec) -> None:
    there = pb.KnowledgeBase()
    spec_to_pb(spec, there)
    assert spec_from_pb(there) == spec


def _fields(number: int) -> list[dict[str, str]]:
    return [{"name": f"f{n}", "type": "METADATA_TYPE_BOOL"} for n in range(number)]


def _source(**more: Any) -> dict[str, Any]:
    return {"name": "s", "folder": {"path": "a"}} | more


def _evaluation(interval_s: int = 0, **thresholds: Any) -> dict[str, Any]:
    return {"evaluation": {"interval_seconds": interval_s, "thresholds": thresholds}}


@pytest.mark.parametrize(
    ("fields", "path", "says"),
    [
        ({"embedding_model": ""}, "embedding_model", "models/{model}"),
        ({"chunking": {"max_tokens": 15}}, "chunking.max_tokens", "16 to 2000"),
        ({"chunking": {"strategy": 9}}, "chunking.strategy", "CHUNKING_STRATEGY_AUTO"),
        ({"search_mode": 9}, "search_mode", "SEARCH_MODE_DENSE"),
        ({"tenancy": 9}, "tenancy", "TENANCY_COLLECTION"),
        ({"metadata_fields": _fields(33)}, "metadata_fields", "at most 32"),
        ({"metadata_fields": [{"name": "A", "type": 1}]}, "metadata_fields[0].name", "lower-case"),
        ({"metadata_fields": [{"name": "a" * 64, "type": 1}]}, "metadata_fields[0].name", "at most 63"),
        ({"metadata_fields": [{"name": 'a"]', "type": 1}]}, "metadata_fields[0].name", "lower-case"),
        ({"metadata_fields": [{"name": "a"}]}, "metadata_fields[0].type", "METADATA_TYPE_STRING"),
        ({"metadata_fields": _fields(1) * 2}, "metadata_fields[1].name", "unique"),
        ({"search_defaults": {"top_k": 101}}, "search_defaults.top_k", "1 to 100"),
        ({"search_defaults": {"top_k": -1}}, "search_defaults.top_k", "1 to 100"),
        (
            {"search_defaults": {"ranker": {"weighted": {"dense_weight": 1.5}}}},
            "search_defaults.ranker.weighted.dense_weight",
            "0",
        ),
        ({"search_defaults": {"min_similarity": 1.1}}, "search_defaults.min_similarity", "-1 to 1"),
        ({"search_defaults": {"min_similarity": "NaN"}}, "search_defaults.min_similarity", "-1 to 1"),
        ({"search_defaults": {"rerank": {}}}, "search_defaults.rerank.model", "models/{model}"),
        (
            {"search_defaults": {"rerank": {"model": "models/r", "candidates": 257}}},
            "search_defaults.rerank.candidates",
            "256",
        ),
        ({"index": {"type": 9}}, "index.type", "INDEX_TYPE_HNSW"),
        ({"index": {"target_recall_percent": 49}}, "index.target_recall_percent", "50 to 100"),
        ({"index": {"build_params": {"M": 8}}}, "index.build_params", "set the type"),
        ({"index": {"type": 4, "build_params": {"nlist": 8}}}, 'index.build_params["nlist"]', "M and efC"),
        ({"index": {"type": 1, "build_params": {"M": 8}}}, 'index.build_params["M"]', "no such parameters"),
        ({"index": {"type": 4, "build_params": {"M": 3}}}, 'index.build_params["M"]', "4 to 64"),
        ({"index": {"type": 2, "search_params": {"ef": 8}}}, 'index.search_params["ef"]', "nprobe"),
        ({"tenancy": 2, "index": {"tuning_off": True}}, "index", "many knowledge bases share one index"),
        ({"sources": [_source(name=f"s{n}") for n in range(17)]}, "sources", "at most 16"),
        ({"sources": [_source(name="-")]}, "sources[0].name", "lower-case"),
        ({"sources": [_source(), _source()]}, "sources[1].name", "unique"),
        ({"sources": [{"name": "s"}]}, "sources[0].folder", "must be set"),
        ({"sources": [_source(folder={"path": "../a"})]}, "sources[0].folder.path", "relative"),
        ({"evaluation": {}}, "evaluation.thresholds", "at least one of ndcg_at_10, recall_at_10, mrr"),
        (_evaluation(ndcg_at_10=1.01), "evaluation.thresholds.ndcg_at_10", "0 to 1"),
        (_evaluation(recall_at_10=-0.1), "evaluation.thresholds.recall_at_10", "0 to 1"),
        (_evaluation(mrr_at_10="NaN"), "evaluation.thresholds.mrr_at_10", "0 to 1"),
        (_evaluation(4, mrr_at_10=0.5), "evaluation.interval_seconds", "5 to 2592000"),
        (_evaluation(2_592_001, mrr_at_10=0.5), "evaluation.interval_seconds", "5 to 2592000"),
        ({"evaluation": {"golden_set": "x" * 513}}, "evaluation.golden_set", "at most 512"),
        ({"allowed_tenants": ["a"] * 1001}, "allowed_tenants", "at most 1000"),
        ({"allowed_tenants": ["a", "A"]}, "allowed_tenants[1]", "a namespace's name, or *"),
        ({"allowed_tenants": ["**"]}, "allowed_tenants[0]", "a namespace's name, or *"),
        ({"sources": [_source(interval_seconds=4)]}, "sources[0].interval_seconds", "5 to 86400"),
    ],
    ids=str,
)
def test_bounds_of_the_proto_file_hold(fields: dict[str, Any], path: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        spec_from_pb(message(fields))
    assert [violation.field for violation in caught.value.violations] == [f"knowledge_base.{path}"]
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("asked", "paths", "expected"),
    [
        ({"search_mode": 2}, ["search_mode"], replace(FULL, search_mode=SearchMode.SPARSE)),
        # What the mask does not name stays.
        (
            {"search_mode": 2, "search_defaults": {"top_k": 5}},
            ["search_defaults.top_k"],
            replace(FULL, search_defaults=replace(FULL.search_defaults, top_k=5)),
        ),
        # What it names and the request lacks gets its default.
        (
            {},
            ["search_defaults.rerank"],
            replace(FULL, search_defaults=replace(FULL.search_defaults, rerank=None)),
        ),
        (
            {"search_defaults": {"top_k": 5}},
            ["search_defaults"],
            replace(FULL, search_defaults=SearchDefaults(top_k=5)),
        ),
        (
            {"search_defaults": {"ranker": {"weighted": {"dense_weight": 0.5}}}},
            ["search_defaults.ranker.weighted.dense_weight"],
            replace(FULL, search_defaults=replace(FULL.search_defaults, ranker=Weighted(dense_weight=0.5))),
        ),
        ({}, ["index"], replace(FULL, index=IndexPolicy())),
        ({}, ["index.search_params"], replace(FULL, index=replace(FULL.index, search_params={}))),
        ({}, ["sources"], replace(FULL, sources=())),
        (
            {"allowed_tenants": ["*", "b", "*"]},
            ["allowed_tenants"],
            replace(FULL, allowed_tenants=("*", "b")),
        ),
        # Without a mask all that can be updated; the others only if they are there.
        (
            {},
            [],
            replace(
                FULL,
                search_mode=SearchMode.HYBRID,
                search_defaults=SearchDefaults(),
                index=IndexPolicy(),
                sources=(),
                evaluation=None,
                allowed_tenants=(),
            ),
        ),
        (
            {"metadata_fields": [{"name": "n", "type": 1}]},
            ["metadata_fields"],
            replace(FULL, metadata_fields=(MetadataField(name="n", type=MetadataType.STRING),)),
        ),
        ({"tenancy": 1}, ["tenancy"], replace(FULL, tenancy=Tenancy.COLLECTION)),
    ],
    ids=str,
)
def test_an_update_changes_what_its_mask_names(
    asked: dict[str, Any], paths: list[str], expected: KnowledgeBaseSpec
) -> None:
    fields = json_format.ParseDict(asked, pb.KnowledgeBase())
    assert updated(FULL, fields, FieldMask(paths=paths)) == expected


@pytest.mark.parametrize(
    "path", ["revision", "nope", "index.nope", "sources.name", "name", "index_status", ""]
)
def test_a_mask_may_name_only_what_is_asked_for(path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        updated(FULL, pb.KnowledgeBase(), FieldMask(paths=[path]))
    assert caught.value.violations[0].field == "update_mask"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"embedding_model": "models/x"}, "embedding_model"),
        ({"chunking": {"max_tokens": 50}}, "chunking.max_tokens"),
        ({"chunking": {"strategy": 2}}, "chunking.strategy"),
        ({"tenancy": 3}, "tenancy"),
        ({"metadata_fields": [{"name": "b", "type": 1}]}, "metadata_fields.a"),
        ({"metadata_fields": [{"name": "a", "type": 2}]}, "metadata_fields.a"),
    ],
    ids=str,
)
def test_what_cannot_change_is_named_with_what_to_do(fields: dict[str, Any], named: str) -> None:
    current: KnowledgeBase = knowledge_base(
        "kb", spec_from_pb(message({"metadata_fields": [{"name": "a", "type": 1}]}))
    )
    wanted = spec_from_pb(message({"metadata_fields": [{"name": "a", "type": 1}]} | fields))
    with pytest.raises(FailedPrecondition, match="cannot be changed, since") as caught:
        refuse_changes(current, wanted)
    assert caught.value.reason == "FIELD_IMMUTABLE"
    assert named in caught.value.metadata
    assert named in caught.value.message


def test_metadata_fields_may_grow() -> None:
    fields = [{"name": "b", "type": 2}, {"name": "a", "type": 1}]
    refuse_changes(
        knowledge_base("kb", spec_from_pb(message({"metadata_fields": fields[1:]}))),
        spec_from_pb(message({"metadata_fields": fields})),
    )

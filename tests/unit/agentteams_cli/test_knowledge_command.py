"""Knowledge bases on the command line: applied with all their fields, shown, filled and exported."""

import json
import struct
from pathlib import Path

import pytest
from agentteams.retrieval.v1 import filter_pb2 as filter_pb
from agentteams.retrieval.v1 import index_pb2 as index_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from google.protobuf import json_format

from manifests import KnowledgeBase, load_text
from manifests.knowledge_pb import to_pb
from tests.unit.agentteams_cli.fakes import Run, Scenario, run, services
from tests.unit.manifests.test_knowledge import FULL

__all__ = ["run", "services"]


def manifest(text: str) -> KnowledgeBase:
    resource = load_text(text, Path("m.yaml")).objects[0].resource
    assert isinstance(resource, KnowledgeBase)
    return resource


def test_every_field_of_the_manifest_is_asked_for() -> None:
    assert json_format.MessageToDict(to_pb(manifest(FULL)), preserving_proto_field_name=True) == {
        "name": "knowledgeBases/docs",
        "embedding_model": "models/embed",
        "chunking": {"max_tokens": 400, "overlap_tokens": 40, "strategy": "CHUNKING_STRATEGY_MARKDOWN"},
        "search_mode": "SEARCH_MODE_HYBRID",
        "tenancy": "TENANCY_DATABASE",
        "metadata_fields": [
            {"name": "product", "type": "METADATA_TYPE_STRING"},
            {"name": "year", "type": "METADATA_TYPE_INT64"},
        ],
        "search_defaults": {
            "top_k": 12,
            "ranker": {"weighted": {"dense_weight": 0.7}},
            "rerank": {"model": "models/rerank", "candidates": 50},
            "min_similarity": 0.25,
        },
        "index": {
            "type": "INDEX_TYPE_HNSW",
            "build_params": {"M": 32, "efConstruction": 300},
            "search_params": {"ef": 100},
            "target_recall_percent": 97,
            "tuning_off": True,
        },
        "sources": [
            {
                "name": "handbook",
                "folder": {"path": "team/handbook"},
                "mirror_deletes": True,
                "interval_seconds": 30,
            }
        ],
        "evaluation": {
            "golden_set": "golden/docs.yaml",
            "interval_seconds": 604800,
            "thresholds": {"recall_at_10": 0.9, "mrr_at_10": 0.7},
        },
    }


def test_a_shared_collection_is_asked_for_without_an_index() -> None:
    text = FULL[: FULL.index("  index:")].replace("Database", "PartitionKey")
    message = to_pb(manifest(text))
    assert message.tenancy == kb_pb.TENANCY_PARTITION_KEY
    assert not message.HasField("index")


def full() -> kb_pb.KnowledgeBase:
    message = to_pb(manifest(FULL))
    message.dimension, message.chunk_count, message.generation = 384, 1200, 3
    message.documents.ready, message.documents.pending, message.documents.failed = 40, 2, 7
    message.index_status.type = index_pb.INDEX_TYPE_HNSW
    message.index_status.build_params["M"] = 32
    message.index_status.search_params["ef"] = 100
    message.ingest.chunks_per_second = 12.34
    message.ingest.last_error = "no readable PDF"
    message.capacity.memory_bytes = 5 * 2**20
    message.capacity.advice = "stay on Lite"
    message.capacity.milvus_used_bytes, message.capacity.milvus_memory_bytes = 300 * 2**20, 16 * 2**30
    message.deployment = "Standalone 2.3.5"
    message.source_statuses.add(name="handbook", message="folder is missing")
    return message


def test_knowledge_lists_and_shows(run: Run, services: Scenario) -> None:
    services.knowledge_bases = {"knowledgeBases/docs": full()}
    header, row = run("knowledge").stdout.splitlines()
    assert header.split() == ["NAME", "MODEL", "READY", "WAITING", "FAILED", "CHUNKS", "INDEX", "CHUNKS/S"]
    assert row.split() == ["docs", "embed", "40", "2", "7", "1200", "HNSW", "M=32", "ef=100", "12.3"]

    services.documents = {
        f"knowledgeBases/docs/documents/{n}": kb_pb.Document(
            path=f"{n}.pdf", state=kb_pb.DOCUMENT_STATE_FAILED, error={"message": "scanned"}
        )
        for n in range(6)
    }
    result = run("knowledge", "docs")
    assert result.exit_code == 0
    for shown in (
        "embed, 384 dimensions",
        "40 ready, 2 waiting, 0 being indexed, 7 failed",
        "product (String), year (Int64)",
        "HNSW M=32 ef=100",
        "12.3 chunks a second",
        "5 MiB",
        "stay on Lite",
        "Standalone 2.3.5, 300 MiB of 16 GiB in use",
        "not yet seen; folder is missing",
        "no readable PDF",
        "failed: 4.pdf: scanned",
        "and 2 more that failed",
    ):
        assert shown in result.stdout
    assert "5.pdf" not in result.stdout

    document = json.loads(run("knowledge", "docs", "--output", "json").stdout)
    assert document["knowledge_base"]["chunk_count"] == "1200"
    assert [failure["path"] for failure in document["failures"]] == [f"{n}.pdf" for n in range(5)]
    assert run("knowledge", "nope").exit_code == 1


def test_no_knowledge_base_is_said(run: Run, services: Scenario) -> None:
    services.knowledge_bases = {}
    assert run("knowledge").stdout.startswith("No knowledge base yet")


def test_metadata_become_values_of_their_fields(run: Run, services: Scenario) -> None:
    message = kb_pb.KnowledgeBase(name="knowledgeBases/docs")
    for number, name in enumerate(("text", "whole", "real", "flag"), start=1):
        message.metadata_fields.add(name=name, type=kb_pb.MetadataType.ValueType(number))
    services.knowledge_bases = {message.name: message}
    Path("a.md").write_text("a")
    given = ["text==a=b", "whole=-5", "real=1e3", "flag=True"]
    options = [part for text in given for part in ("--metadata", text)]
    assert run("ingest", "docs", "a.md", "--no-wait", *options).exit_code == 0
    (document,) = services.documents.values()
    assert dict(document.metadata) == {
        "text": filter_pb.Value(string_value="=a=b"),
        "whole": filter_pb.Value(int_value=-5),
        "real": filter_pb.Value(double_value=1000.0),
        "flag": filter_pb.Value(bool_value=True),
    }


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (["year"], 2, "'year' must be FIELD=VALUE"),
        (["year=1", "year=2"], 2, "year is given twice"),
        (["colour=red"], 1, 'has no metadata field "colour"; name one of product, year'),
        (["year=new"], 1, 'metadata year: "new" is not a whole number'),
    ],
)
def test_metadata_that_do_not_fit_are_refused_before_the_upload(
    run: Run, services: Scenario, given: list[str], code: int, says: str
) -> None:
    services.knowledge_bases = {"knowledgeBases/docs": full()}
    Path("a.md").write_text("a")
    options = [part for text in given for part in ("--metadata", text)]
    result = run("ingest", "docs", "a.md", *options)
    assert (result.exit_code, services.documents) == (code, {})
    assert says in result.stderr


def test_export_writes_a_line_a_chunk(run: Run, services: Scenario) -> None:
    chunks = [
        retrieval_pb.Chunk(
            id=f"c{n}",
            document="knowledgeBases/docs/documents/d",
            document_title="a.md",
            ordinal=n,
            text="Füchse\n",
            metadata={"year": filter_pb.Value(int_value=2**53 + 1)},
        )
        for n in range(3)
    ]
    services.exported = [
        retrieval_pb.ExportChunksResponse(chunks=chunks[:2], vectors=struct.pack("<4f", 1, 0, 0.5, 0.25)),
        retrieval_pb.ExportChunksResponse(chunks=chunks[2:], vectors=struct.pack("<2f", 0, 1)),
    ]
    result = run("export", "docs", "--vectors", "--filter", "year >= 2020")
    assert (result.exit_code, result.stderr) == (0, "3 chunks\n")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["id"], line["vector"]) for line in lines] == [
        ("c0", [1, 0]),
        ("c1", [0.5, 0.25]),
        ("c2", [0, 1]),
    ]
    assert lines[0]["text"] == "Füchse\n"
    assert lines[0]["metadata"] == {"year": 2**53 + 1}
    (asked,) = services.exports
    assert (asked.include_vectors, asked.filter.compare.field) == (True, "year")

    services.exported = [retrieval_pb.ExportChunksResponse(chunks=chunks[:1])]
    (line,) = run("export", "docs").stdout.splitlines()
    assert "vector" not in json.loads(line)
    assert not services.exports[-1].HasField("filter")

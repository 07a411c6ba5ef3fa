"""KnowledgeBases: all their fields, and the rules between them."""

from pathlib import Path

import pytest

from manifests import KnowledgeBase, check_references, load_text

FULL = """\
apiVersion: agentteams.dev/v1alpha1
kind: KnowledgeBase
metadata: {name: docs}
spec:
  embedding: {modelConfigRef: {name: embed}}
  schema:
    metadataFields:
    - {name: product, type: String}
    - {name: year, type: Int64}
  tenancy: {strategy: Database}
  chunking: {strategy: Markdown, maxTokens: 400, overlapTokens: 40}
  retrieval:
    searchMode: Hybrid
    topK: 12
    minScore: "0.25"
    ranker: {type: Weighted, weighted: {denseWeight: "0.7"}}
    rerank: {modelConfigRef: {name: rerank}, candidates: 50}
  index:
    policy: Manual
    type: HNSW
    buildParams: {M: 32, efConstruction: 300}
    searchParams: {ef: 100}
    target: {recallPercent: 97}
    tuning: {enabled: false}
  sources:
  - {name: handbook, folder: {path: team/handbook}, deletePolicy: Mirror, intervalSeconds: 30}
  evaluation:
    goldenSetRef: {configMapKeyRef: {name: golden, key: docs.yaml}}
    schedule: "@weekly"
    thresholds: {recallAt10: "0.9", mrr: "0.7"}
"""


def problems(text: str) -> list[str]:
    return [f"{p.field}: {p.message}; {p.fix}".rstrip("; ") for p in load_text(text, Path("m.yaml")).problems]


def test_all_fields() -> None:
    content = load_text(FULL, Path("m.yaml"))
    assert content.problems == []
    resource = content.objects[0].resource
    assert isinstance(resource, KnowledgeBase)
    spec = resource.spec
    assert [(field.name, field.type) for field in spec.content.metadata_fields] == [
        ("product", "String"),
        ("year", "Int64"),
    ]
    assert (spec.tenancy.strategy, spec.chunking.strategy) == ("Database", "Markdown")
    assert spec.retrieval.ranker.weighted is not None
    assert spec.retrieval.ranker.weighted.dense_weight == "0.7"
    assert spec.index.build_params == {"M": 32, "efConstruction": 300}
    assert spec.evaluation is not None
    assert spec.evaluation.golden_set_name == "golden/docs.yaml"
    assert (spec.sources[0].folder.path, spec.sources[0].delete_policy) == ("team/handbook", "Mirror")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("name: product", "name: Product", "spec.schema.metadataFields[0].name: must be lower-case letters"),
        (
            "name: year, type: Int64",
            "name: product, type: Bool",
            'spec.schema.metadataFields[1].name: "product" is the name of schema.metadataFields[0] already; '
            "give each its own name",
        ),
        ("type: Int64", "type: int", "spec.schema.metadataFields[1].type: must be one of String, Int64"),
        (
            "strategy: Database",
            "strategy: PartitionKey",
            "spec.index: many knowledge bases share one index with tenancy PartitionKey; remove it, or set "
            "tenancy: {strategy: Collection}",
        ),
        ("strategy: Markdown", "strategy: Fixed", "spec.chunking.strategy: must be one of Auto, Recursive"),
        (
            "type: Weighted, weighted",
            "type: RRF, weighted",
            "spec.retrieval.ranker.weighted: only with type Weighted; remove it, or set type: Weighted",
        ),
        (
            'type: Weighted, weighted: {denseWeight: "0.7"}',
            "type: Weighted, rrf: {k: 10}",
            "spec.retrieval.ranker.rrf: only with type RRF; remove it, or set type: RRF",
        ),
        (
            'type: Weighted, weighted: {denseWeight: "0.7"}',
            "type: Weighted",
            "spec.retrieval.ranker.weighted: is required with type Weighted; add weighted: {denseWeight: "
            '"0.5"}',
        ),
        ('"0.25"', '"-1.01"', "spec.retrieval.minScore: must be between -1 and 1"),
        ('"0.25"', "0.25", "spec.retrieval.minScore: "),
        (
            "goldenSetRef: {configMapKeyRef: {name: golden, key: docs.yaml}}",
            "goldenSetRef: {}",
            "spec.evaluation.goldenSetRef.configMapKeyRef: is required",
        ),
        (
            "    goldenSetRef:",
            "    goldenSet: other\n    goldenSetRef:",
            "spec.evaluation.goldenSet: is there beside goldenSetRef; remove one of the two",
        ),
        ("key: docs.yaml", "key: ../x", "spec.evaluation.goldenSetRef.configMapKeyRef.key: must be"),
        ('"@weekly"', '"@yearly"', "spec.evaluation.schedule: must be one of @hourly, @daily, @weekly"),
        (
            'recallAt10: "0.9", mrr: "0.7"',
            "",
            "spec.evaluation.thresholds: must have at least one score; add one, such as recallAt10",
        ),
        ('recallAt10: "0.9"', 'recallAt10: "1.1"', "spec.evaluation.thresholds.recallAt10: must be between"),
        (
            'denseWeight: "0.7"',
            'denseWeight: "1.1"',
            "spec.retrieval.ranker.weighted.denseWeight: must be between 0 and 1",
        ),
        ("candidates: 50", "candidates: 257", "spec.retrieval.rerank.candidates: must be at most 256"),
        (
            "policy: Manual",
            "policy: Auto",
            "spec.index.type: only with policy Manual; remove it, or set policy: Manual",
        ),
        (
            "    type: HNSW\n",
            "",
            "spec.index.type: is required with policy Manual; name a type, such as HNSW, or set policy: Auto",
        ),
        (
            "type: HNSW",
            "type: IVF_FLAT",
            "spec.index.buildParams.M: IVF_FLAT has nlist; remove it",
        ),
        ("M: 32", "M: 65", "spec.index.buildParams.M: must be 4 to 64; choose a number between"),
        ("ef: 100", "ef: 0", "spec.index.searchParams.ef: must be 1 to 32768; choose a number between"),
        ("ef: 100", "nprobe: 1", "spec.index.searchParams.nprobe: HNSW has ef; remove it"),
        ("recallPercent: 97", "recallPercent: 49", "spec.index.target.recallPercent: must be at least 50"),
        (
            "path: team/handbook",
            "path: ../x",
            "spec.sources[0].folder.path: must be a relative path with '/'",
        ),
        ("path: team/handbook", "path: a/../b", "spec.sources[0].folder.path: must be a relative path"),
        ("path: team/handbook", "path: /etc", "spec.sources[0].folder.path: must be a relative path"),
        ("intervalSeconds: 30", "intervalSeconds: 4", "spec.sources[0].intervalSeconds: must be at least 5"),
        (
            "  sources:\n",
            "  sources:\n  - {name: handbook, folder: {path: ..hidden/.well-known}}\n",
            'spec.sources[1].name: "handbook" is the name of sources[0] already; give each its own name',
        ),
    ],
    ids=str,
)
def test_a_wrong_field_says_so(old: str, new: str, problem: str) -> None:
    assert FULL.count(old) == 1
    found = problems(FULL.replace(old, new))
    assert found
    assert found[0].startswith(problem)


def test_the_rerank_model_must_be_one() -> None:
    head = "---\napiVersion: agentteams.dev/v1alpha1\nkind: ModelConfig\n"
    chat = head + "metadata: {name: rerank}\nspec: {type: Chat, provider: BuiltIn}\n"
    embed = head + "metadata: {name: embed}\nspec: {type: Embedding, provider: BuiltIn}\n"
    objects = load_text(FULL + chat + embed, Path("m.yaml")).objects
    (found,) = check_references({loaded.key: loaded for loaded in objects}).values()
    assert [(p.field, p.message) for p in found] == [
        (
            "spec.retrieval.rerank.modelConfigRef.name",
            'ModelConfig "rerank" has type Chat, and Rerank is needed here',
        )
    ]

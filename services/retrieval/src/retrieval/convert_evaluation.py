"""Golden sets and evaluations: protobuf to the domain and back."""

from collections.abc import Sequence

from agentteams.retrieval.v1 import evaluation_pb2 as pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb

from retrieval import convert
from retrieval.convert_quality import MAX_GOLDEN_SET_NAME
from retrieval.core.evaluation import Progress
from retrieval.core.golden import Evaluation, GoldenQuery, GoldenSet, golden_set
from retrieval.core.model import SearchMode
from retrieval.core.names import check_path
from servicekit.errors import InvalidArgument

_MAX_QUERIES, _MAX_RELEVANT, _MAX_ID_CHARACTERS, _MAX_QUERY_CHARACTERS, _MAX_GRADE = (
    10_000,
    1_000,
    64,
    8192,
    10,
)
_MAX_MODES, _MAX_MISSING = 3, 100


def golden_set_from_pb(message: pb.GoldenSet) -> GoldenSet | None:
    """None if it has no queries.

    Raises:
        InvalidArgument: Something is missing, twice or out of range.
    """
    field = "golden_set.queries"
    if len(message.name) > MAX_GOLDEN_SET_NAME:
        raise InvalidArgument.field(
            "golden_set.name", f"must have at most {MAX_GOLDEN_SET_NAME} characters", len(message.name)
        )
    if len(message.queries) > _MAX_QUERIES:
        raise InvalidArgument.field(field, f"must be at most {_MAX_QUERIES}", len(message.queries))
    queries: list[GoldenQuery] = []
    ids: set[str] = set()
    for number, query in enumerate(message.queries):
        if not 1 <= len(query.id) <= _MAX_ID_CHARACTERS:
            raise InvalidArgument.field(
                f"{field}[{number}].id", f"must have 1 to {_MAX_ID_CHARACTERS} characters", query.id
            )
        if query.id in ids:
            raise InvalidArgument.field(f"{field}[{number}].id", "must be unique, comes twice", query.id)
        ids.add(query.id)
        queries.append(_query(query, f"{field}[{number}]"))
    return golden_set(queries, name=message.name) if queries else None


def golden_set_to_pb(found: GoldenSet | None) -> pb.GoldenSet:
    """None is an empty one."""
    if found is None:
        return pb.GoldenSet()
    return pb.GoldenSet(
        queries=[
            pb.GoldenQuery(
                id=query.id,
                query=query.query,
                relevant=[pb.Judgment(path=path, grade=grade) for path, grade in query.relevant.items()],
            )
            for query in found.queries
        ],
        sha256=found.sha256,
        name=found.name,
    )


def modes_from_pb(values: Sequence[int]) -> list[SearchMode]:
    """Each once.

    Raises:
        InvalidArgument: More than there are, or one that is none.
    """
    if len(values) > _MAX_MODES:
        raise InvalidArgument.field("modes", f"must be at most {_MAX_MODES}", len(values))
    modes = []
    for number, value in enumerate(values):
        mode = convert.mode_from_pb(value, field=f"modes[{number}]")
        if mode is None:
            raise InvalidArgument.field(f"modes[{number}]", "must be set")
        modes.append(mode)
    return list(dict.fromkeys(modes))


def progress_to_pb(progress: Progress) -> pb.EvaluateKnowledgeBaseResponse:
    """Missing paths only in the first message and the last."""
    ends = progress.done == 0 or progress.evaluations
    return pb.EvaluateKnowledgeBaseResponse(
        done=progress.done,
        total=progress.total,
        evaluations=[evaluation_to_pb(one) for one in progress.evaluations],
        missing_paths=progress.missing[:_MAX_MISSING] if ends else (),
    )


def evaluation_to_pb(evaluation: Evaluation) -> pb.Evaluation:
    """All of it."""
    message = pb.Evaluation(
        mode=kb_pb.SearchMode.ValueType(evaluation.mode),
        reranked=evaluation.reranked,
        ndcg_at_10=evaluation.ndcg_at_10,
        recall_at_10=evaluation.recall_at_10,
        recall_at_100=evaluation.recall_at_100,
        mrr_at_10=evaluation.mrr_at_10,
        queries=evaluation.queries,
        golden_set_sha256=evaluation.golden_set_sha256,
        revision=evaluation.revision,
        degraded=evaluation.degraded,
        missing_documents=evaluation.missing_documents,
    )
    message.finish_time.FromDatetime(evaluation.finish_time)
    return message


def _query(query: pb.GoldenQuery, field: str) -> GoldenQuery:
    if not query.query.strip() or len(query.query) > _MAX_QUERY_CHARACTERS:
        raise InvalidArgument.field(
            f"{field}.query", f"must have 1 to {_MAX_QUERY_CHARACTERS} characters, not only white space"
        )
    if not 1 <= len(query.relevant) <= _MAX_RELEVANT:
        raise InvalidArgument.field(
            f"{field}.relevant", f"must be 1 to {_MAX_RELEVANT} documents", len(query.relevant)
        )
    relevant: dict[str, int] = {}
    for number, judgment in enumerate(query.relevant):
        place = f"{field}.relevant[{number}]"
        path = check_path(judgment.path, field=f"{place}.path")
        if path in relevant:
            raise InvalidArgument.field(f"{place}.path", "must be unique in its query, comes twice", path)
        if not 0 <= judgment.grade <= _MAX_GRADE:
            raise InvalidArgument.field(f"{place}.grade", f"must be 0 (as 1) to {_MAX_GRADE}", judgment.grade)
        relevant[path] = judgment.grade or 1
    return GoldenQuery(id=query.id, query=query.query, relevant=relevant)

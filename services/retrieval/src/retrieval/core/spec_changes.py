"""What of a knowledge base can be changed, and what not. Pure."""

from collections.abc import Callable

from retrieval.core.model import KnowledgeBase, KnowledgeBaseSpec
from servicekit.errors import FailedPrecondition

_ANEW = "every document would have to be indexed anew: use another name, or delete it and create it again"
# Field, its value for people.
_IMMUTABLE: tuple[tuple[str, Callable[[KnowledgeBaseSpec], str]], ...] = (
    ("embedding_model", lambda spec: spec.embedding_model),
    ("chunking.max_tokens", lambda spec: str(spec.chunking.max_tokens)),
    ("chunking.overlap_tokens", lambda spec: str(spec.chunking.overlap_tokens)),
    ("chunking.strategy", lambda spec: spec.chunking.strategy.name),
    ("tenancy", lambda spec: spec.tenancy.name),
)


def refuse_changes(current: KnowledgeBase, wanted: KnowledgeBaseSpec) -> None:
    """Lets only those fields change that can.

    Raises:
        FailedPrecondition: Names every other field, both values, and what to do instead.
    """
    changed = {
        field: (show(current.spec), show(wanted))
        for field, show in _IMMUTABLE
        if show(current.spec) != show(wanted)
    }
    fix = _ANEW
    if not changed:
        changed = _lost_fields(current.spec, wanted)
        fix = "documents may have it: leave it as it is, and add a field of another name"
    if not changed:
        return
    shown = ", ".join(f"{field} is {now}, not {asked}" for field, (now, asked) in changed.items())
    raise FailedPrecondition(
        f"{current.name} exists with other fields ({shown}). They cannot be changed, since {fix}.",
        reason="FIELD_IMMUTABLE",
        metadata={"knowledge_base": current.name}
        | {field: f"{now} -> {asked}" for field, (now, asked) in changed.items()},
    )


def _lost_fields(current: KnowledgeBaseSpec, wanted: KnowledgeBaseSpec) -> dict[str, tuple[str, str]]:
    types = {field.name: field.type.name for field in wanted.metadata_fields}
    return {
        f"metadata_fields.{field.name}": (field.type.name, types.get(field.name, "absent"))
        for field in current.metadata_fields
        if types.get(field.name) != field.type.name
    }

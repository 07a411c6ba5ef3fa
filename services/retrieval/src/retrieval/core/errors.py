"""Errors that more than one module raises or catches."""

from servicekit.errors import NotFound, Unavailable


class OutdatedCollection(Unavailable):
    """A collection lacks fields that this release needs. Retrying helps once the knowledge base has moved."""


def knowledge_base_not_found(knowledge_base: str) -> NotFound:
    """Not there, or another tenant's: the caller cannot tell."""
    name = f"knowledgeBases/{knowledge_base}"
    return NotFound(
        f"{name} does not exist in your namespace; create it first",
        reason="KNOWLEDGE_BASE_NOT_FOUND",
        metadata={"knowledge_base": name},
    )


def knowledge_base_not_shared(owner: str, knowledge_base: str) -> NotFound:
    """Another tenant's, that is not there or does not allow the caller's: the caller cannot tell."""
    name = f"knowledgeBases/{knowledge_base}"
    return NotFound(
        f"{name} of namespace {owner!r} is not there, or does not allow your namespace; its owner allows it "
        "by spec.allowedNamespaces",
        reason="KNOWLEDGE_BASE_NOT_FOUND",
        metadata={"knowledge_base": name, "owner_tenant": owner},
    )


def document_not_found(knowledge_base: str, document: str) -> NotFound:
    """Not there, or being deleted."""
    name = f"knowledgeBases/{knowledge_base}/documents/{document}"
    return NotFound(f"{name} does not exist", reason="DOCUMENT_NOT_FOUND", metadata={"document": name})

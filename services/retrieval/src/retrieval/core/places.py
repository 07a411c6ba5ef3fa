"""Names of databases and collections: letters, digits and underscores, unique by a hash."""

import hashlib
import re


def collection_alias(tenant: str, knowledge_base: str) -> str:
    """Of one knowledge base."""
    return f"kb_{_readable(f'{tenant[:40]}_{knowledge_base}')}_{_digest(tenant, knowledge_base)}"


def tenant_database(tenant: str) -> str:
    """Of all knowledge bases of a tenant that have their own database."""
    return f"tenant_{_readable(tenant[:40])}_{_digest(tenant)}"


def shared_collection(model_fingerprint: str, dimension: int) -> str:
    """Of all knowledge bases, of whichever tenant, that share a collection: the same vectors compare."""
    return f"shared_{dimension}_{_digest(model_fingerprint, str(dimension))}"


def _readable(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

"""Who may search a knowledge base: its tenant, and those that its tenant allows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from retrieval.core.directory import Directory
from retrieval.core.errors import knowledge_base_not_shared
from retrieval.core.model import KnowledgeBase, Snapshot
from servicekit.context import current_caller, remaining, scope
from servicekit.errors import NotFound

EVERYONE = "*"


def may_search(knowledge_base: KnowledgeBase, tenant: str) -> bool:
    """Whether a caller of that tenant may. A call on nobody's behalf never may."""
    if not tenant:
        return False
    return tenant == knowledge_base.tenant or not {tenant, EVERYONE}.isdisjoint(
        knowledge_base.spec.allowed_tenants
    )


async def readable(directory: Directory, owner: str, id_: str) -> Snapshot:
    """A knowledge base as the current caller may search it; the caller's own if no owner is named.

    Raises:
        NotFound: It is not there, or not the caller's to search: nobody can tell which.
    """
    tenant = current_caller().tenant
    if not owner or owner == tenant:
        return await directory.get(tenant, id_)
    try:
        snapshot = await directory.get(owner, id_)
    except NotFound:
        raise knowledge_base_not_shared(owner, id_) from None
    if not may_search(snapshot.knowledge_base, tenant):
        raise knowledge_base_not_shared(owner, id_)
    return snapshot


@contextmanager
def as_owner(knowledge_base: KnowledgeBase) -> Iterator[None]:
    """For what a search itself calls: the models are those of the knowledge base's tenant."""
    caller = current_caller()
    if caller.tenant == knowledge_base.tenant:
        yield
        return
    with scope(caller=replace(caller, tenant=knowledge_base.tenant), timeout=remaining()):
        yield

"""The queue of documents: whose turn it is, what is put back, what a deletion holds."""

from dataclasses import replace
from datetime import timedelta

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.core.model import DocumentState
from retrieval.core.names import document_id
from tests.contract.test_retrieval_catalogue import (
    KB,
    LEASE,
    NOW,
    catalogue,  # noqa: F401
    claimed,
    document,
    state,
)


async def add_knowledge_base(catalogue: SqlCatalogue, tenant: str, id_: str) -> None:  # noqa: F811
    collection = f"{tenant}-{id_}"
    assert await catalogue.insert_knowledge_base(
        replace(KB, tenant=tenant, id=id_, alias=collection, collection=collection)
    )


async def upload(catalogue: SqlCatalogue, tenant: str, id_: str, path: str, after_s: int = 0) -> None:  # noqa: F811
    at = NOW + timedelta(seconds=after_s)
    await catalogue.put_document(replace(document(path, at=at), tenant=tenant, knowledge_base=id_))


async def test_tenants_and_their_knowledge_bases_come_in_turn(catalogue: SqlCatalogue) -> None:  # noqa: F811
    await add_knowledge_base(catalogue, "default", "small")
    await add_knowledge_base(catalogue, "other", "one")
    for number in range(8):
        await upload(catalogue, "default", "kb", f"{number}.md")
    await upload(catalogue, "default", "small", "x.md", after_s=50)
    await upload(catalogue, "default", "small", "y.md", after_s=51)
    await upload(catalogue, "other", "one", "z.md", after_s=60)
    order = []
    now = NOW + timedelta(minutes=2)
    while (claim := await catalogue.claim(lease=LEASE, now=now)) is not None:
        order.append((claim.document.tenant, claim.document.knowledge_base, claim.document.path))
    assert order[:5] == [
        ("default", "kb", "0.md"),
        ("other", "one", "z.md"),
        ("default", "small", "x.md"),
        ("default", "kb", "1.md"),
        ("default", "small", "y.md"),
    ]
    assert [path for _, _, path in order[5:]] == [f"{number}.md" for number in range(2, 8)]


async def test_what_is_put_back_counts_as_never_claimed(catalogue: SqlCatalogue) -> None:  # noqa: F811
    await catalogue.put_document(document())
    claim = await claimed(catalogue)
    later = NOW + timedelta(seconds=3)
    assert await catalogue.release(claim, until=later, now=NOW)
    assert not await catalogue.release(claim, until=later, now=NOW)
    assert await state(catalogue) == DocumentState.PENDING
    assert await catalogue.claim(lease=LEASE, now=NOW) is None
    again = await claimed(catalogue, later)
    assert (again.document.attempts, again.first_failure, again.interruptions) == (1, None, 0)


async def test_only_claims_that_died_with_their_worker_are_interruptions(catalogue: SqlCatalogue) -> None:  # noqa: F811
    await catalogue.put_document(document())
    assert await catalogue.postpone(await claimed(catalogue), until=NOW, now=NOW)
    assert (await claimed(catalogue)).interruptions == 0
    killed = await claimed(catalogue, NOW + LEASE)
    assert (killed.interruptions, killed.document.attempts) == (1, 3)
    await catalogue.put_document(document(sha256="2" * 64))
    await catalogue.abandon(killed)
    assert (await claimed(catalogue, NOW + LEASE)).interruptions == 0


async def test_only_a_document_that_nobody_ever_had_has_no_former_chunks(catalogue: SqlCatalogue) -> None:  # noqa: F811
    await catalogue.put_document(document())
    claim = await claimed(catalogue)
    assert claim.first
    assert await catalogue.release(claim, until=NOW, now=NOW)  # it may have written
    again = await claimed(catalogue)
    assert not again.first
    await catalogue.put_document(replace(document(), sha256="b" * 64))  # another version of the same path
    assert not (await claimed(catalogue, NOW + LEASE)).first


async def test_the_version_is_that_of_the_claim_that_finished(catalogue: SqlCatalogue) -> None:  # noqa: F811
    await catalogue.put_document(document())
    claim = await claimed(catalogue)
    await catalogue.finish(claim, collection="c1", chunk_count=3, warnings=[], now=NOW)
    found = await catalogue.get_document("default", "kb", document_id("a.md"))
    assert found is not None
    assert found.version == claim.token


async def test_an_upload_waits_for_the_deletion_of_its_former_chunks(catalogue: SqlCatalogue) -> None:  # noqa: F811
    stored, _ = await catalogue.put_document(document())
    await catalogue.finish(await claimed(catalogue), collection="c1", chunk_count=3, warnings=[], now=NOW)
    assert await catalogue.mark_document_deleted("default", "kb", stored.id, now=NOW) is False
    assert await catalogue.deleted_documents(now=NOW, limit=10) == []  # the deleting call is at it
    assert await catalogue.mark_document_deleted("default", "kb", stored.id, now=NOW) is False
    await catalogue.put_document(document(sha256="2" * 64))
    assert await catalogue.claim(lease=LEASE, now=NOW) is None
    assert await catalogue.remove_document("default", "kb", stored.id, now=NOW) is None
    assert (await claimed(catalogue)).document.sha256 == "2" * 64


async def test_a_deletion_that_was_killed_is_one_other_callers(catalogue: SqlCatalogue) -> None:  # noqa: F811
    stored, _ = await catalogue.put_document(document())
    assert await catalogue.mark_document_deleted("default", "kb", stored.id, now=NOW) is False
    later = NOW + timedelta(seconds=61)
    assert [found.id for found, _ in await catalogue.deleted_documents(now=later, limit=10)] == [stored.id]
    assert await catalogue.deleted_documents(now=later, limit=10) == []
    assert await catalogue.remove_document("default", "kb", stored.id, now=later) == stored.blob


async def test_how_long_the_oldest_has_waited(catalogue: SqlCatalogue) -> None:  # noqa: F811
    assert await catalogue.oldest_pending() is None
    await catalogue.put_document(document("a.md", at=NOW + timedelta(seconds=5)))
    await catalogue.put_document(document("b.md", at=NOW))
    assert await catalogue.oldest_pending() == NOW
    assert await catalogue.postpone(await claimed(catalogue), until=NOW, now=NOW + timedelta(seconds=9))
    assert await catalogue.oldest_pending() == NOW

"""What the queue costs does not grow with what waits: its statements read the beginning of an index."""

from datetime import timedelta

from sqlalchemy import Connection, event, text

from retrieval.adapters.catalogue import SqlCatalogue
from tests.contract.test_retrieval_catalogue import (
    LEASE,
    NOW,
    catalogue,  # noqa: F401
    document,
)


class Asked:
    """The statements of a catalogue that sort documents, with their plans."""

    def __init__(self, catalogue: SqlCatalogue) -> None:  # noqa: F811
        self._engine = catalogue._engine
        self._said: list[tuple[str, object]] = []
        event.listen(self._engine.sync_engine, "before_cursor_execute", self._note)

    def _note(
        self, _c: Connection, _cursor: object, said: str, parameters: object, _x: object, _many: bool
    ) -> None:
        if "ORDER BY" in said and "knowledge_bases" not in said:
            self._said.append((said, parameters))

    async def plans(self) -> list[str]:
        """As the database would choose them if a sort were dear, as it is with many rows."""
        event.remove(self._engine.sync_engine, "before_cursor_execute", self._note)
        sqlite = self._engine.dialect.name == "sqlite"
        found = []
        async with self._engine.begin() as connection:
            if not sqlite:
                for dear in ("sort", "seqscan", "bitmapscan"):
                    await connection.execute(text(f"SET LOCAL enable_{dear} = off"))
            for said, parameters in self._said:
                explain = f"{'EXPLAIN QUERY PLAN' if sqlite else 'EXPLAIN'} {said}"
                rows = await connection.exec_driver_sql(explain, parameters)  # type: ignore[arg-type]
                found.append("\n".join(str(row[-1]) for row in rows))
        return found


async def test_neither_a_claim_nor_the_oldest_sorts_what_waits(catalogue: SqlCatalogue) -> None:  # noqa: F811
    for number in range(5):
        await catalogue.put_document(document(f"{number}.md"))
    asked = Asked(catalogue)
    claim = await catalogue.claim(lease=LEASE, now=NOW)
    assert claim is not None
    assert await catalogue.oldest_pending() == NOW
    plans = await asked.plans()
    assert len(plans) == 3, plans  # what a dead worker had, what waits, and the oldest
    for plan in plans:
        assert "Sort" not in plan, plan
        assert "TEMP B-TREE" not in plan, plan


async def test_what_a_dead_worker_had_comes_before_what_waits(catalogue: SqlCatalogue) -> None:  # noqa: F811
    await catalogue.put_document(document("b.md"))
    assert await catalogue.claim(lease=LEASE, now=NOW) is not None
    await catalogue.put_document(document("a.md"))
    later = NOW + LEASE + timedelta(seconds=1)
    order = []
    while (claim := await catalogue.claim(lease=LEASE, now=later)) is not None:
        order.append((claim.document.path, claim.interruptions))
    assert order == [("b.md", 1), ("a.md", 0)]


async def test_of_documents_due_together_the_first_by_path_is_claimed(catalogue: SqlCatalogue) -> None:  # noqa: F811
    for name in ("c.md", "a.md", "b.md"):
        await catalogue.put_document(document(name))
    order = []
    while (claim := await catalogue.claim(lease=LEASE, now=NOW)) is not None:
        order.append(claim.document.path)
    assert order == ["a.md", "b.md", "c.md"]

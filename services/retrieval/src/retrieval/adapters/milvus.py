"""The vector store on Milvus: Lite (as a server), Standalone or Distributed, as the URI says.

What differs between them is learnt at connect, not configured.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from pymilvus import AsyncMilvusClient
from pymilvus.grpc_gen.common_pb2 import PlaceholderValue
from pymilvus.grpc_gen.schema_pb2 import SearchResultData

from retrieval.adapters import milvus_metrics
from retrieval.adapters import milvus_schema as schema
from retrieval.adapters.milvus_connection import Connection, Settling
from retrieval.adapters.milvus_errors import Missing, MissingDatabase
from retrieval.adapters.milvus_filter import expression
from retrieval.adapters.milvus_probe import Server, probe
from retrieval.adapters.milvus_rows import (
    HIT_FIELDS,
    METADATA,
    RECORD_FIELDS,
    SPARSE,
    VECTOR,
    key,
    literal,
    one_of,
    to_hit,
    to_rows,
    to_stored,
    within,
)
from retrieval.adapters.milvus_wire import Wire, hits_of, of_texts, of_vectors, search_request
from retrieval.core.errors import OutdatedCollection
from retrieval.core.filters import Filter
from retrieval.core.index import BuiltIndex, CollectionSpec
from retrieval.core.model import (
    Capabilities,
    ChunkRecord,
    Hit,
    MetadataField,
    Place,
    Segments,
    StoredChunk,
    StoreMemory,
    Vectors,
)
from retrieval.core.ports import NO_PARAMS
from retrieval.core.words import query_words
from servicekit.errors import FailedPrecondition

Answer = TypeVar("Answer")

_WRITE_BATCH = 500  # 384 floats and 1 kB of text each: 1.3 MB a message
_MAX_WINDOW = 16_384  # Milvus' own bound of rows in one answer


class MilvusStore:
    """See `VectorStore`.

    Args:
        uri: Such as http://127.0.0.1:19530.
        token: API key or user:password; empty for none.
        timeout_s: Of one call, when the caller's deadline is not shorter.
        ddl_timeout_s: Of creating, loading and dropping.
    """

    def __init__(
        self, *, uri: str, token: str = "", timeout_s: float = 10.0, ddl_timeout_s: float = 60.0
    ) -> None:
        self._connection = Connection(uri=uri, token=token, timeout_s=timeout_s, ddl_timeout_s=ddl_timeout_s)
        self._timeout_s = timeout_s
        self._ddl_timeout_s = ddl_timeout_s
        self._server: Server | None = None
        self._settling = Settling()

    async def connect(self) -> Capabilities:
        """Learns what this Milvus can do; asks again every time."""
        self._server = await self._connection.ddl(
            "probe", "", lambda client: probe(client, timeout_s=self._timeout_s)
        )
        return self._server.capabilities

    async def capabilities(self) -> Capabilities:
        """What `connect` learnt."""
        return (await self._known()).capabilities

    async def _known(self) -> Server:
        if self._server is None:
            await self.connect()
        assert self._server is not None
        return self._server

    async def ensure_collection(self, spec: CollectionSpec) -> bool:
        """Creates, indexes, loads and names the collection: every step only if it is missing."""
        server = await self._known()
        sparse, loose = server.capabilities.sparse, server.loose_metadata
        database = spec.place.database
        if database:
            await self._connection.ddl(
                "create_database", "", lambda c: schema.ensure_database(c, database, self._ddl_timeout_s)
            )
        return await self._connection.ddl(
            "ensure_collection",
            database,
            lambda c: schema.ensure(c, spec, sparse=sparse, loose=loose, timeout_s=self._ddl_timeout_s),
        )

    async def lacking(self, place: Place) -> frozenset[str]:
        """Asks Milvus each time."""
        server = await self._known()
        sparse, loose = server.capabilities.sparse, server.loose_metadata
        return await self._connection.read(
            "describe_collection",
            place.database,
            place.collection,
            lambda c: schema.lacking(c, place, sparse=sparse, loose=loose, timeout_s=self._timeout_s),
        )

    async def add_fields(self, place: Place, fields: Sequence[MetadataField]) -> None:
        """Nothing to do: the metadata column holds any field."""

    async def drop(self, place: Place) -> None:
        """Of a shared collection only the scope's rows; of a database also itself when it is empty then."""
        if place.scope:
            with contextlib.suppress(Missing):
                await self._delete(place, within(place))
            return
        with contextlib.suppress(MissingDatabase):
            await self._connection.ddl(
                "drop_collection",
                place.database,
                lambda c: schema.drop(c, place.collection, alias=place.alias, timeout_s=self._ddl_timeout_s),
            )
            if place.database:
                await self._connection.ddl(
                    "drop_database",
                    place.database,
                    lambda c: schema.drop_empty_database(c, place.database, self._ddl_timeout_s),
                )

    async def upsert(self, place: Place, records: Sequence[ChunkRecord], vectors: Vectors) -> None:
        """Never a plain insert: servers keep both rows of a repeated id."""
        server = await self._known()
        rows = to_rows(
            place, records, vectors, sparse=server.capabilities.sparse, loose=server.loose_metadata
        )
        write = self._upsert if server.upserts_by_partition_key or not place.scope else self._replace
        for start in range(0, len(rows), _WRITE_BATCH):
            await write(place, rows[start : start + _WRITE_BATCH])

    async def delete_document(self, place: Place, document: str, *, keep_version: str | None = None) -> None:
        """By expression; every value in it is a JSON string."""
        others = f"version != {literal(keep_version)}" if keep_version is not None else ""
        await self._delete(place, within(place, f"document == {literal(document)}", others))

    async def delete_chunks(self, place: Place, ids: Sequence[str]) -> None:
        """By key."""
        for start in range(0, len(ids), _WRITE_BATCH):
            keys = [key(place, id_) for id_ in ids[start : start + _WRITE_BATCH]]
            await self._delete(place, within(place, one_of("id", keys)))

    async def settle(self, place: Place) -> None:
        """One strong query that finds nothing; callers at the same time share it."""
        if not (await self._known()).lags:
            return
        await self._settling.join(
            (place.database, place.collection),
            lambda: self._query(place, place.collection, 'id == ""', ["id"], limit=1),
        )

    async def flush(self, place: Place) -> None:
        """On Lite 5,000 unflushed rows cost a search 33 ms; on servers flush is rate limited."""
        await self._connection.call(
            "flush",
            place.database,
            place.collection,
            lambda c, t: c.flush(place.collection, timeout=t),
            timeout_s=self._ddl_timeout_s,
        )

    async def search_dense(
        self,
        place: Place,
        vectors: Vectors,
        *,
        limit: int,
        filter: Filter | None = None,
        search_params: Mapping[str, int] = NO_PARAMS,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """Nearest by cosine, all in one call."""
        if not len(vectors):
            return []
        return await self._search(
            place,
            of_vectors(vectors),
            VECTOR,
            limit,
            filter,
            search_params=schema.dense_search_params(limit, search_params),
            with_vectors=with_vectors,
        )

    async def search_sparse(
        self,
        place: Place,
        texts: Sequence[str],
        *,
        limit: int,
        filter: Filter | None = None,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """Best by BM25, all in one call. Lite sends the negative of the score."""
        if not (await self.capabilities()).sparse:
            raise FailedPrecondition(
                "the deployed Milvus has no keyword search (BM25 needs Milvus 2.5 or Lite 3)",
                reason="SPARSE_UNSUPPORTED",
            )
        asked = [" ".join(query_words(text)) for text in texts]
        searched = [text for text in asked if text]
        if not searched:
            return [[] for _ in asked]
        answers = await self._search(
            place,
            of_texts(searched),
            SPARSE,
            limit,
            filter,
            search_params=schema.SPARSE_SEARCH_PARAMS,
            with_vectors=with_vectors,
        )
        found = iter(answers)
        return [next(found) if text else [] for text in asked]

    async def chunks_at(self, place: Place, wanted: Sequence[tuple[str, Sequence[int]]]) -> list[Hit]:
        """In one query, at most 16,384 of them."""
        parts = [
            f"(document == {literal(document)} and ordinal in {sorted(set(ordinals))})"
            for document, ordinals in wanted
            if ordinals
        ]
        if not parts:
            return []
        rows = await self._query(
            place,
            place.searched,
            within(place, " or ".join(parts)),
            ["id", *HIT_FIELDS],
            consistency_level="Bounded",
        )
        rows.sort(key=lambda row: (row["document"], row["ordinal"], row["id"]))
        return [to_hit(place, row["id"], row, 0.0) for row in rows]

    async def iterate(
        self, place: Place, *, filter: Filter | None = None, with_vectors: bool = False, batch: int = 500
    ) -> AsyncIterator[list[StoredChunk]]:
        """By pages in the order of ids. A blip is bridged; a longer outage raises.

        As pymilvus' own iterator does it, which blocks, does not escape ids and waits twice a walk.
        """
        await self.settle(place)
        fields = [*RECORD_FIELDS, VECTOR] if with_vectors else RECORD_FIELDS
        last = ""
        while True:
            page = await self._chosen(place, filter, f"id > {literal(last)}")
            # Without `iterator` Lite's pages are in no order; without the other, servers may end early.
            rows = await self._query(
                place,
                place.collection,
                page,
                fields,
                limit=batch,
                iterator="True",
                reduce_stop_for_best="True",
                guarantee_timestamp=_recent(),
            )
            if not rows:
                return
            rows = rows[:batch]  # servers may send what came along
            yield [to_stored(place, row) for row in rows]
            last = str(rows[-1]["id"])

    async def count(self, place: Place) -> int:
        """Exact."""
        rows = await self._query(place, place.collection, within(place), ["count(*)"], limit=None)
        return int(rows[0]["count(*)"])

    async def findable(self, place: Place) -> int:
        """As the same part of Milvus counts that searches."""
        rows = await self._query(
            place, place.searched, within(place), ["count(*)"], limit=None, consistency_level="Bounded"
        )
        return int(rows[0]["count(*)"])

    async def chunk_ids(self, place: Place, document: str) -> list[str]:
        """The first 16,384 at most."""
        chosen = within(place, f"document == {literal(document)}")
        rows = await self._query(place, place.collection, chosen, ["id", *HIT_FIELDS])
        rows.sort(key=lambda row: (row["ordinal"], row["id"]))
        return [to_hit(place, row["id"], row, 0.0).id for row in rows]

    async def index_of(self, place: Place) -> BuiltIndex:
        """As Milvus describes it."""
        return await self._connection.read(
            "describe_index",
            place.database,
            place.collection,
            lambda c: schema.index_of(c, place.collection, timeout_s=self._timeout_s),
        )

    async def segments(self, place: Place) -> Segments | None:
        """None on Lite."""
        if not (await self._known()).lists_segments:
            return None
        return await self._connection.read(
            "list_segments",
            place.database,
            place.collection,
            lambda c: schema.segments(c, place.collection, timeout_s=self._timeout_s),
        )

    async def memory(self) -> StoreMemory | None:
        """None on Lite."""
        return await self._connection.read(
            "get_metrics", "", "", lambda c: milvus_metrics.memory(c, timeout_s=self._timeout_s)
        )

    async def close(self) -> None:
        """Ends all connections."""
        await self._connection.close()

    async def _upsert(self, place: Place, rows: list[dict[str, Any]]) -> None:
        await self._connection.call(
            "upsert",
            place.database,
            place.collection,
            lambda c, t: c.upsert(place.collection, rows, timeout=t),
        )

    async def _replace(self, place: Place, rows: list[dict[str, Any]]) -> None:
        """Deletes and inserts, and does both again if it must: an insert alone would double."""
        former = within(place, one_of("id", [row["id"] for row in rows]))

        async def replace(client: AsyncMilvusClient, timeout_s: float) -> None:
            await client.delete(place.collection, filter=former, timeout=timeout_s)
            await client.insert(place.collection, rows, timeout=timeout_s)

        await self._connection.call("upsert", place.database, place.collection, replace)

    async def _delete(self, place: Place, chosen: str) -> None:
        await self._connection.call(
            "delete",
            place.database,
            place.collection,
            lambda c, t: c.delete(place.collection, filter=chosen, timeout=t),
        )

    async def _search(
        self,
        place: Place,
        queries: PlaceholderValue,
        field: str,
        limit: int,
        filter: Filter | None,
        *,
        search_params: dict[str, Any],
        with_vectors: bool,
    ) -> list[list[Hit]]:
        chosen = await self._chosen(place, filter)

        async def search(wire: Wire, timeout_s: float, output: list[str]) -> SearchResultData:
            request = search_request(
                place.searched,
                queries,
                field,
                limit=limit,
                chosen=chosen,
                search_params=search_params,
                output=output,
            )
            return await wire.search(request, timeout_s=timeout_s)

        found = await self._with_or_without_metadata(
            [*HIT_FIELDS, VECTOR] if with_vectors else HIT_FIELDS,
            lambda fields: self._connection.search(
                place.database, place.searched, lambda w, t: search(w, t, fields)
            ),
        )
        return hits_of(place, found, by_meaning=field == VECTOR)

    async def _chosen(self, place: Place, filter: Filter | None, *more: str) -> str:
        if filter is None:
            return within(place, *more)
        return within(place, *more, expression(filter, loose=(await self._known()).loose_metadata))

    async def _query(
        self,
        place: Place,
        name: str,
        chosen: str,
        fields: list[str],
        *,
        limit: int | None = _MAX_WINDOW,
        **options: str | int,
    ) -> list[dict[str, Any]]:
        """Strong unless the options say otherwise."""
        options = options or {"consistency_level": "Strong"}
        if limit is not None:
            options["limit"] = limit
        rows = await self._with_or_without_metadata(
            fields,
            lambda output: self._connection.call(
                "query",
                place.database,
                name,
                lambda c, t: c.query(name, filter=chosen, output_fields=output, timeout=t, **options),
            ),
        )
        return list(rows)

    @staticmethod
    async def _with_or_without_metadata(
        fields: list[str], read: Callable[[list[str]], Awaitable[Answer]]
    ) -> Answer:
        """Of a collection without metadata, what it has. Lite leaves it out by itself, servers refuse."""
        try:
            return await read(fields)
        except OutdatedCollection:
            return await read([field for field in fields if field != METADATA])


def _recent() -> int:
    """Five seconds ago, as Milvus writes times: the bound of Bounded, which walks cannot ask for by name."""
    return (int(time.time() * 1000) - 5_000) << 18

"""The vector store on Milvus: Lite (as a server), Standalone or Distributed, as the URI says.

What differs between them is learnt at connect, not configured. Data calls go
through the asynchronous client; DDL goes through the synchronous one in a
thread, because Lite answers `await create_index()` with UNIMPLEMENTED after
it has made the index.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pymilvus import AnnSearchRequest, AsyncMilvusClient, MilvusClient, RRFRanker

from retrieval.adapters import milvus_schema as schema
from retrieval.adapters.milvus_errors import NotLoaded, mapped, silence_client_log
from retrieval.core.model import Capabilities, ChunkRecord, Hit, Vectors
from servicekit.context import remaining_s
from servicekit.errors import NotFound, Unavailable

Answer = TypeVar("Answer")

# Refused connections come back in 0 s and pymilvus does not retry them: a
# blip is bridged here, an outage is the caller's to report.
_RETRY_DELAYS_S = (0.1, 0.3, 0.6, 1.0)
_RRF_K = 60
_UPSERT_BATCH = 500  # 384 floats and 1 kB of text each: 1.3 MB a message
_MAX_WINDOW = 16_384  # Milvus' own bound of rows in one answer
_HYBRID_CANDIDATES = 2  # of each kind, times the limit


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
        self._uri = uri
        self._token = token
        self._timeout_s = timeout_s
        self._ddl_timeout_s = ddl_timeout_s
        self._sync: MilvusClient | None = None
        self._async: AsyncMilvusClient | None = None
        self._capabilities: Capabilities | None = None
        self._connecting = asyncio.Lock()
        self._loading: dict[str, asyncio.Lock] = {}
        silence_client_log()

    async def connect(self) -> Capabilities:
        """Learns what this Milvus can do; asks again every time."""
        async with self._connecting:
            if self._sync is None:
                self._sync = await self._in_thread("connect", self._new_sync_client)
            if self._async is None:
                self._async = AsyncMilvusClient(timeout=self._timeout_s, **self._client_options())
            client = self._sync
            self._capabilities = await self._in_thread(
                "probe", lambda: schema.probe(client, timeout_s=self._timeout_s)
            )
            return self._capabilities

    async def capabilities(self) -> Capabilities:
        """What `connect` learnt."""
        return self._capabilities or await self.connect()

    async def ensure_collection(self, *, alias: str, collection: str, dimension: int) -> bool:
        """Creates, indexes, loads and names the collection: every step only if it is missing."""
        capabilities = await self.capabilities()
        client = self._sync_client()
        timeout_s = self._ddl_timeout_s

        def ensure() -> bool:
            created = not client.has_collection(collection, timeout=timeout_s)
            if created:
                schema.create(
                    client, collection, dimension=dimension, sparse=capabilities.sparse, timeout_s=timeout_s
                )
            # Also when the collection is there: a crash may have come between the two.
            schema.create_missing_indexes(client, collection, sparse=capabilities.sparse, timeout_s=timeout_s)
            client.load_collection(collection, timeout=timeout_s)
            schema.point_alias(client, alias, collection, timeout_s=timeout_s)
            return created

        return await self._in_thread("ensure_collection", ensure)

    async def drop_collection(self, collection: str, *, alias: str | None = None) -> None:
        """Alias first: Standalone keeps a dangling alias otherwise."""
        await self.capabilities()
        client = self._sync_client()
        await self._in_thread(
            "drop_collection",
            lambda: schema.drop(client, collection, alias=alias, timeout_s=self._ddl_timeout_s),
        )

    async def upsert(self, collection: str, records: Sequence[ChunkRecord], vectors: Vectors) -> None:
        """Never a plain insert: servers keep both rows of a repeated id."""
        rows = [
            {
                "id": record.id,
                "document": record.document,
                "title": record.title,
                "version": record.version,
                "ordinal": record.ordinal,
                "text": record.text,
                "location": record.location,
                "vector": vector,
            }
            for record, vector in zip(records, np.asarray(vectors, dtype=np.float32), strict=True)
        ]
        for start in range(0, len(rows), _UPSERT_BATCH):
            await self._upsert_rows(collection, rows[start : start + _UPSERT_BATCH])

    async def delete_document(
        self, collection: str, document: str, *, keep_version: str | None = None
    ) -> None:
        """By expression; every value in it is a JSON string."""
        expression = f"document == {literal(document)}"
        if keep_version is not None:
            expression += f" and version != {literal(keep_version)}"
        await self._call(
            "delete", collection, lambda c, t: c.delete(collection, filter=expression, timeout=t)
        )

    async def flush(self, collection: str) -> None:
        """On Lite 5,000 unflushed rows cost a search 33 ms; on servers flush is rate limited."""
        await self._call(
            "flush", collection, lambda c, t: c.flush(collection, timeout=t), timeout_s=self._ddl_timeout_s
        )

    async def search_dense(
        self, alias: str, vector: Vectors, *, limit: int, min_similarity: float | None = None
    ) -> list[Hit]:
        """Nearest by cosine."""
        rows = await self._call(
            "search",
            alias,
            lambda c, t: c.search(
                alias,
                data=[vector],
                anns_field=schema.VECTOR,
                limit=limit,
                search_params=schema.dense_search_params(limit),
                output_fields=schema.OUTPUT_FIELDS,
                timeout=t,
            ),
        )
        hits = [_hit(row, row["distance"]) for row in rows[0]]
        return hits if min_similarity is None else [hit for hit in hits if hit.score >= min_similarity]

    async def search_sparse(self, alias: str, text: str, *, limit: int) -> list[Hit]:
        """Best by BM25. Lite sends the negative of the score."""
        rows = await self._call(
            "search",
            alias,
            lambda c, t: c.search(
                alias,
                data=[text],
                anns_field=schema.SPARSE,
                limit=limit,
                search_params=schema.SPARSE_SEARCH_PARAMS,
                output_fields=schema.OUTPUT_FIELDS,
                timeout=t,
            ),
        )
        return [_hit(row, abs(row["distance"])) for row in rows[0]]

    async def search_hybrid(
        self, alias: str, vector: Vectors, text: str, *, limit: int, min_similarity: float | None = None
    ) -> list[Hit]:
        """One call; the server fuses. With a minimum, vectors come along to tell each hit's cosine."""
        candidates = limit * _HYBRID_CANDIDATES
        fields, fetched = schema.OUTPUT_FIELDS, limit
        if min_similarity is not None:
            fields, fetched = [*fields, schema.VECTOR], candidates
        requests = [
            AnnSearchRequest([vector], schema.VECTOR, schema.dense_search_params(candidates), candidates),
            AnnSearchRequest([text], schema.SPARSE, schema.SPARSE_SEARCH_PARAMS, candidates),
        ]
        rows = await self._call(
            "hybrid_search",
            alias,
            lambda c, t: c.hybrid_search(
                alias, requests, RRFRanker(_RRF_K), limit=fetched, output_fields=fields, timeout=t
            ),
        )
        hits = rows[0]
        if min_similarity is not None:
            hits = [row for row in hits if _cosine(vector, row["entity"][schema.VECTOR]) >= min_similarity]
        return [_hit(row, row["distance"]) for row in hits[:limit]]

    async def count(self, collection: str) -> int:
        """Exact."""
        rows = await self._call(
            "count",
            collection,
            lambda c, t: c.query(
                collection, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=t
            ),
        )
        return int(rows[0]["count(*)"])

    async def chunk_ids(self, collection: str, document: str) -> list[str]:
        """The first 16,384 at most."""
        rows = await self._call(
            "query",
            collection,
            lambda c, t: c.query(
                collection,
                filter=f"document == {literal(document)}",
                output_fields=["id", "ordinal"],
                limit=_MAX_WINDOW,
                consistency_level="Strong",
                timeout=t,
            ),
        )
        return [str(row["id"]) for row in sorted(rows, key=lambda row: (row["ordinal"], row["id"]))]

    async def close(self) -> None:
        """Ends both connections."""
        if self._async is not None:
            await self._async.close()
            self._async = None
        if self._sync is not None:
            await asyncio.to_thread(self._sync.close)
            self._sync = None

    async def _upsert_rows(self, collection: str, rows: list[dict[str, Any]]) -> None:
        await self._call("upsert", collection, lambda c, t: c.upsert(collection, rows, timeout=t))

    async def _call(
        self,
        action: str,
        collection: str,
        call: Callable[[AsyncMilvusClient, float], Awaitable[Answer]],
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        """One data call: bounded, errors mapped, a released collection loaded, a blip bridged."""
        if self._async is None:
            await self.connect()
        assert self._async is not None  # connect() made it or raised
        delays = iter(_RETRY_DELAYS_S)
        loaded = False
        while True:
            budget_s, ours = self._budget(timeout_s or self._timeout_s)
            try:
                # pymilvus' own timeout does not cover a reconnect; this one does.
                with mapped(action, deadline_is_ours=ours, target=self._uri):
                    async with asyncio.timeout(budget_s + 0.05):
                        return await call(self._async, budget_s)
            except NotLoaded:
                if loaded:
                    raise Unavailable(
                        f"Milvus does not load collection {collection}",
                        reason="DEPENDENCY_UNAVAILABLE",
                        metadata={"dependency": "milvus", "collection": collection},
                    ) from None
                await self._load(collection)
                loaded = True
            except Unavailable:
                delay = next(delays, None)
                left = remaining_s()
                if delay is None or (left is not None and left < 2 * delay):
                    raise
                await asyncio.sleep(delay)

    async def _load(self, collection: str) -> None:
        """One load at a time for each collection: Lite forgets what was loaded when it restarts."""
        lock = self._loading.setdefault(collection, asyncio.Lock())
        try:
            async with lock:
                client = self._sync_client()
                await self._in_thread(
                    "load", lambda: client.load_collection(collection, timeout=self._ddl_timeout_s)
                )
        finally:
            if not lock.locked():
                self._loading.pop(collection, None)

    def _budget(self, wanted_s: float) -> tuple[float, bool]:
        """Seconds for the next call, and whether it is our bound rather than the caller's deadline."""
        left = remaining_s()
        if left is None or left > wanted_s:
            return wanted_s, True
        return max(0.001, left - 0.01), False

    async def _in_thread(self, action: str, call: Callable[[], Answer]) -> Answer:
        """DDL. A thread cannot be cancelled, so every call in it has a time-out of its own."""
        budget_s, ours = self._budget(self._ddl_timeout_s + 1)
        with mapped(action, deadline_is_ours=ours, target=self._uri):
            try:
                async with asyncio.timeout(budget_s):
                    return await asyncio.to_thread(call)
            except NotLoaded as error:
                raise Unavailable(str(error), reason="DEPENDENCY_UNAVAILABLE") from error

    def _sync_client(self) -> MilvusClient:
        if self._sync is None:
            raise Unavailable("Milvus is not connected", reason="DEPENDENCY_UNAVAILABLE")
        return self._sync

    def _new_sync_client(self) -> MilvusClient:
        return MilvusClient(timeout=self._timeout_s, **self._client_options())

    def _client_options(self) -> dict[str, Any]:
        return {
            "uri": self._uri,
            "token": self._token,
            # Shared channels are keyed by address only and never freed.
            "dedicated": True,
            # Lite's server answers pings more often than every 5 minutes with GOAWAY.
            "grpc_options": {
                "grpc.keepalive_time_ms": 600_000,
                # gRPC would refuse calls for a second after a restart, and longer after an outage.
                "grpc.initial_reconnect_backoff_ms": 100,
                "grpc.min_reconnect_backoff_ms": 100,
                "grpc.max_reconnect_backoff_ms": 1_000,
            },
        }


def literal(value: str) -> str:
    """The value as a string of Milvus' expression language. Neither Lite nor 2.3 has templates."""
    return json.dumps(value, ensure_ascii=False)


def missing(error: NotFound) -> bool:
    """Whether the error says that the collection is not there."""
    return error.reason == "COLLECTION_NOT_FOUND"


def _hit(row: Mapping[str, Any], score: float) -> Hit:
    entity = row["entity"]
    return Hit(
        id=row["id"],
        document=entity["document"],
        title=entity["title"],
        ordinal=entity["ordinal"],
        text=entity["text"],
        location=entity["location"],
        score=score,
    )


def _cosine(query: Vectors, vector: Sequence[float]) -> float:
    other = np.asarray(vector, dtype=np.float32)
    norm = float(np.linalg.norm(query) * np.linalg.norm(other))
    return float(query @ other) / norm if norm else 0.0

"""A stand-in for rerank endpoints: the forms of Cohere (Jina, vLLM) and of TEI, on a free loopback port."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal, Self

# What a test answers with instead: status, headers, body.
Answer = tuple[int, dict[str, str], Any]


def score(query: str, passage: str) -> float:
    """The share of the query's words that the passage has."""
    words = set(query.lower().split())
    return len(words & set(passage.lower().split())) / len(words)


class RerankServer:
    """Serves while the block lasts.

    Attributes:
        asked: The requests' bodies.
        headers: The last request's headers.
        answers: Answered first, in this order, instead of what is asked.
    """

    def __init__(self, form: Literal["cohere", "tei"], *, api_key: str = "") -> None:
        self.form = form
        self.api_key = api_key
        self.asked: list[dict[str, Any]] = []
        self.answers: list[Answer] = []
        self.paths: list[str] = []
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}" + ("/v2" if self.form == "cohere" else "")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.paths.append(lines[0].split()[1])
                self.asked.append(body)
                if self.answers:
                    status, extra, answer = self.answers.pop(0)
                elif self.api_key and headers.get("authorization") != f"bearer {self.api_key}":
                    status, extra, answer = 401, {}, {"message": "invalid api token"}
                else:
                    status, answer = self._answer(body)
                    extra = {}
                payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                fields = {"content-type": "application/json", "content-length": str(len(payload))} | extra
                head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                writer.write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        finally:
            self._writers.discard(writer)

    def _answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.form == "tei":
            if "texts" not in body:
                said = "Failed to deserialize the JSON body into the target type: missing field `texts`"
                return 422, {"error": said, "error_type": "Validation"}
            if len(body["texts"]) > 32:
                return 422, {"error": f"batch size {len(body['texts'])} > maximum allowed batch size 32"}
            found = [(n, score(body["query"], text)) for n, text in enumerate(body["texts"])]
            return 200, [{"index": n, "score": s} for n, s in sorted(found, key=lambda one: -one[1])]
        found = [(n, score(body["query"], text)) for n, text in enumerate(body["documents"])]
        results = [{"index": n, "relevance_score": s} for n, s in sorted(found, key=lambda one: -one[1])]
        return 200, {"id": "x", "results": results}

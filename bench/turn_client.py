"""The clients of bench/turn.py, in a process of their own: raw HTTP, so that they cost little.

Prints one JSON object: seconds of each turn, seconds to each first token, and the wall time.
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field

_FIRST_TEXT = b'"delta":{"content":"'
_END = b"0\r\n\r\n"
_TURN_TIMEOUT_S = 60.0


@dataclass(kw_only=True)
class Load:
    """What is to be asked, and what came of it."""

    port: int
    team: str
    first: int
    left: int
    turn_s: list[float] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)

    def next_question(self) -> str | None:
        """A question that nobody asked before: caches must not answer it."""
        if self.left == 0:
            return None
        self.left -= 1
        self.first += 1
        return f"Question {self.first}: what happens to a run whose lease number {self.first} has expired?"


async def one_client(load: Load) -> None:
    """Asks until no question is left, on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
    while (question := load.next_question()) is not None:
        body = {"model": load.team, "stream": True, "messages": [{"role": "user", "content": question}]}
        payload = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{load.port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
        )
        started = time.perf_counter()
        writer.write(head.encode() + payload)
        answer, first = b"", 0.0
        async with asyncio.timeout(_TURN_TIMEOUT_S):
            while not answer.endswith(_END):
                piece = await reader.read(65536)
                if not piece:
                    raise RuntimeError(f"the gateway hung up: {answer[-500:]!r}")
                answer += piece
                if not first and _FIRST_TEXT in answer:
                    first = time.perf_counter() - started
        load.turn_s.append(time.perf_counter() - started)
        load.first_token_s.append(first)
        check(answer)
    writer.close()


def check(answer: bytes) -> None:
    """A turn counts only if it searched once and cites what it found. Raises: RuntimeError."""
    if not (b"[DONE]" in answer and b'"searches":1,' in answer and b'"origin":' in answer):
        raise RuntimeError(f"not an answer with one search and a citation: {answer[-1500:]!r}")


async def main() -> None:
    """Runs the load that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "clients", "turns", "first"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--team", required=True)
    arguments = parser.parse_args()
    load = Load(port=arguments.port, team=arguments.team, first=arguments.first, left=arguments.turns)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(arguments.clients):
            group.create_task(one_client(load))
    wall_s = time.perf_counter() - started
    json.dump({"wall_s": wall_s, "turn_s": load.turn_s, "first_token_s": load.first_token_s}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())

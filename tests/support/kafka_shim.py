"""Between the Kafka client of Milvus 2.3.5 and a newer broker: `python kafka_shim.py PORT BROKER_PORT`.

The client asks first for the versions that the broker knows, in a form that
old brokers refuse. The broker here answers in a form that the client cannot
read, so the refusal is given in its place, and the client asks in the older
form. Everything else passes as it is.
"""

import asyncio
import contextlib
import struct
import sys

_API_VERSIONS = 18
_UNSUPPORTED_VERSION = 35
_MAX_FRAME = 64 * 1024 * 1024


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    if not 0 < size <= _MAX_FRAME:
        raise ConnectionError(f"a frame of {size} bytes")
    return await reader.readexactly(size)


def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)


async def _ask(
    client: asyncio.StreamReader, back: asyncio.StreamWriter, broker: asyncio.StreamWriter
) -> None:
    while True:
        frame = await _frame(client)
        api, version, correlation = struct.unpack(">hhi", frame[:8])
        if api == _API_VERSIONS and version > 0:
            known = struct.pack(">hhh", _API_VERSIONS, 0, 0)
            _send(back, struct.pack(">ihi", correlation, _UNSUPPORTED_VERSION, 1) + known)
            await back.drain()
        else:
            _send(broker, frame)
            await broker.drain()


async def _answer(broker: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
    while True:
        _send(back, await _frame(broker))
        await back.drain()


async def _serve(port: int, broker_port: int) -> None:
    async def connected(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        broker = None
        # Whoever ends a connection ends it for both.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ExceptionGroup):
            try:
                answers, broker = await asyncio.open_connection("127.0.0.1", broker_port)
                async with asyncio.TaskGroup() as both:
                    both.create_task(_ask(client, back, broker))
                    both.create_task(_answer(answers, back))
            finally:
                back.close()
                if broker is not None:
                    broker.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))

"""For tests: a real server in the test's own process, and a clock to set."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from servicekit.client import RpcClient, open_channel
from servicekit.context import Caller, scope
from servicekit.identity import IdentityKey, TokenIssuer
from servicekit.server import Service, new_server

TEST_KEY = IdentityKey(b"a key for tests only, 32 bytes or more")


@asynccontextmanager
async def serve_in_process(services: Sequence[Service], *, key: IdentityKey = TEST_KEY) -> AsyncIterator[str]:
    """Serves on a free loopback port, with everything a real process has around it."""
    server, _ = new_server(services, key=key)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(1.0)


@asynccontextmanager
async def rpc_as(
    target: str,
    *,
    tenant: str = "default",
    user: str = "test",
    service: str = "",
    key: IdentityKey = TEST_KEY,
) -> AsyncIterator[RpcClient]:
    """A client whose calls, inside the block, are made as that caller."""
    channel = open_channel(target)
    try:
        with scope(caller=Caller(tenant, user, service)):
            yield RpcClient(
                channel, issuer=TokenIssuer(key, service="test"), default_timeout=timedelta(seconds=10)
            )
    finally:
        await channel.close()


class FakeClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0

    def now(self) -> datetime:
        """The time of day, in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return self._monotonic

    def advance(self, by: timedelta) -> None:
        """Moves both on."""
        self._now += by
        self._monotonic += by.total_seconds()

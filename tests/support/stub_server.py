"""Servers of stubs: services as the operator sees them, in memory."""

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc

from servicekit.identity import IdentityKey, TokenVerifier


class Stub:
    """What every stub has.

    Attributes:
        target: host:port, while it is served.
    """

    def __init__(self, key: IdentityKey) -> None:
        self.target = ""
        self._verifier = TokenVerifier(key)

    def tenant(self, context: grpc.ServicerContext) -> str:
        """The verified caller's."""
        metadata = dict(context.invocation_metadata())
        return self._verifier.verify(str(metadata["authorization"]).removeprefix("Bearer ")).tenant


@contextmanager
def serving(stub: Stub, *add: Callable[..., None]) -> Iterator[None]:
    """Serves on a free port of 127.0.0.1 for the block. `add`: the generated functions that add servicers."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    for one in add:
        one(stub, server)
    stub.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()

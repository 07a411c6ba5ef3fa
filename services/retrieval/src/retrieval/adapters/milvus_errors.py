"""Milvus' errors to ours, in one place.

pymilvus raises MilvusException for what the server says and for refused
connections, and lets raw grpc.RpcError through for DEADLINE_EXCEEDED,
UNIMPLEMENTED and their like.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from pymilvus.exceptions import MilvusException

from retrieval.core.errors import OutdatedCollection
from servicekit.errors import DeadlineExceeded, NotFound, ServiceError, Unavailable

COLLECTION_NOT_FOUND = 100
_NOT_LOADED = 101
_DATABASE_NOT_FOUND = 800
# Of reads and filters on Lite, of writes by the client, and of servers.
_NO_FIELD = re.compile(
    r"unknown field '|\$meta access requires|unexpected field `|field \w+ not exist"
    r"|fieldName\(\w+\) not found"
)


class NotLoaded(Exception):
    """The collection is released; load it and ask again."""


class Missing(NotFound):
    """The collection is not there."""


class MissingDatabase(Missing):
    """Nor is its database."""


class TimedOut(Unavailable):
    """No answer in the time that we allow; trying again would double it."""


@contextmanager
def mapped(action: str, *, deadline_is_ours: bool, target: str) -> Iterator[None]:
    """Maps what the block raises.

    Args:
        action: For the message.
        deadline_is_ours: A time-out is then the store's fault, not the caller's.
        target: The store's address, for the message.
    """
    try:
        yield
    except ServiceError:
        raise
    except MilvusException as error:
        if error.code == _DATABASE_NOT_FOUND or _no_database(error):
            raise MissingDatabase(
                f"Milvus has no such database: {error.message}", reason="COLLECTION_NOT_FOUND"
            ) from error
        if error.code == COLLECTION_NOT_FOUND:
            raise Missing(
                f"Milvus has no such collection: {error.message}", reason="COLLECTION_NOT_FOUND"
            ) from error
        if error.code == _NOT_LOADED or "not loaded" in error.message:
            raise NotLoaded(error.message) from error
        if _NO_FIELD.search(error.message):
            raise _failed(action, target, error.message, kind=OutdatedCollection) from error
        if _timed_out(error):
            raise _too_late(action, deadline_is_ours, target) from error
        raise _failed(action, target, error.message) from error
    except TimeoutError as error:
        raise _too_late(action, deadline_is_ours, target) from error
    except grpc.RpcError as error:
        code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            raise _too_late(action, deadline_is_ours, target) from error
        raise _failed(action, target, str(code)) from error


def silence_client_log() -> None:
    """pymilvus logs a traceback for each error that it also raises; ours are logged once."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)


def _no_database(error: MilvusException) -> bool:
    """Lite's code is that of many other errors."""
    return re.match(r"database '.*' does not exist", error.message) is not None


def _timed_out(error: MilvusException) -> bool:
    return error.code == grpc.StatusCode.DEADLINE_EXCEEDED or "Retry timeout" in error.message


def _too_late(action: str, deadline_is_ours: bool, target: str) -> ServiceError:
    if deadline_is_ours:
        return _failed(action, target, "no answer in time", kind=TimedOut)
    return DeadlineExceeded(
        f"the deadline came before Milvus answered ({action})", reason="DEADLINE_TOO_SHORT"
    )


def _failed(action: str, target: str, message: str, *, kind: type[Unavailable] = Unavailable) -> Unavailable:
    return kind(
        f"Milvus at {target} failed ({action}): {message}",
        reason="DEPENDENCY_UNAVAILABLE",
        metadata={"dependency": "milvus", "target": target, "action": action},
    )

"""The API server of the operator's core, where nothing is to be written."""

from collections.abc import Mapping
from typing import Any

from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Event


class NoApi:
    """Every call fails the test; override those that are expected."""

    async def apply(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        raise AssertionError(wanted)

    async def apply_status(self, one: Stored, status: Mapping[str, Any]) -> Mapping[str, Any]:
        raise AssertionError(status)

    async def set_finalizers(self, one: Stored, ours: tuple[str, ...]) -> None:
        raise AssertionError(ours)

    async def delete(self, key: Key) -> None:
        raise AssertionError(key)

    async def tell(self, one: Stored, event: Event) -> None:
        raise AssertionError(event)

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        raise AssertionError(name)

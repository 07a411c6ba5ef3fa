"""Nobody reaches another's rows, by any RPC: requests full of another's names, as others."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentteams.session.v1 import memory_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from servicekit.context import scope
from servicekit.errors import ServiceError
from session.memory_servicer import MemoryServicer
from session.servicer import SessionServicer
from session.user_data_servicer import UserDataMethods
from tests.integration.test_session_user_data import BOB, EVE, Client, remember, served, turn, unique
from tests.integration.test_session_waiting import asks
from tests.support.session_service import append, begin
from tests.support.sessions import BACKENDS, migrated_file, opened

__all__ = ["migrated_file"]

_ALLOWED = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
}


def _implemented(name: str) -> bool:
    return any(name in base.__dict__ for base in (SessionServicer, UserDataMethods, MemoryServicer))


_METHODS = {
    method.name: method
    for service in (
        pb.DESCRIPTOR.services_by_name["SessionService"],
        memory_pb2.DESCRIPTOR.services_by_name["MemoryService"],
    )
    for method in service.methods
    if _implemented(method.name)
}
SECRET = "ada's secret"
CALL = "0.0"  # what her run asks about
_NAMES = {"name", "parent", "session", "run", "runs", "message"}  # fields that name a resource


def _filled(
    kind: Any, names: dict[str, list[str]], draw: Callable[[list[Any]], Any], depth: int = 0
) -> Message:
    """A request whose every field is set, with names of another's rows where names are expected."""
    message: Message = GetMessageClass(kind)()
    for field in kind.fields:
        if field.containing_oneof is not None and field is not field.containing_oneof.fields[0]:
            continue
        value = _value(field, names, draw, depth)
        if value is None:
            continue
        if field.is_repeated:
            target = getattr(message, field.name)
            target.add().CopyFrom(value) if isinstance(value, Message) else target.append(value)
        elif isinstance(value, Message):
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message


def _value(  # noqa: PLR0911  # one for each kind of field
    field: FieldDescriptor, names: dict[str, list[str]], draw: Callable[[list[Any]], Any], depth: int
) -> Any:
    if field.message_type is not None:
        if field.message_type.full_name.startswith("google.") or depth > 2:
            return None
        return _filled(field.message_type, names, draw, depth + 1)
    if field.name == "request_id":
        return draw([*names["request_id"], unique()])
    if field.name in ("page_token", "user", "team", "team_revision", "lease_owner", "query", "text"):
        known = {"team": "teams/helpdesk", "lease_owner": "orchestrator-1", "query": "secret", "text": "mine"}
        return known.get(field.name, "")
    if field.name == "call_id":
        return CALL
    if field.name == "max_active_runs":
        return 0  # a team's runs are counted over all its users: that one may learn of
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING and field.name not in _NAMES:
        return "x"
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return draw([name for key in ("sessions", "runs", "memories", "messages") for name in names[key]])
    if field.name in ("fencing_token", "sequence"):
        return draw([1, 2, 5])
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return 2
    if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
        return draw([0, 1, 50])
    return None


@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_rpc_shows_or_changes_anything_of_another(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, migrated_file: Path
) -> None:
    def draw(options: list[Any]) -> Any:
        return data.draw(st.sampled_from(options))

    async def play(backend: str) -> None:
        file = tmp_path_factory.mktemp("across") / "session.db"
        async with (
            opened(backend, file=file, template=migrated_file) as databases,
            served(databases) as client,
        ):
            names = await _adas(client)
            before = await client.export()
            for caller in (BOB, EVE):
                for method in _METHODS.values():
                    request = _filled(method.input_type, names, draw)
                    for field in ("lease_duration",):
                        if field in method.input_type.fields_by_name:
                            getattr(request, field).FromSeconds(30)
                    with scope(caller=caller):
                        shown = await _answer(client, method, request)
                    assert SECRET not in shown, method.name
                    assert not any(name in shown for name in names["sessions"] + names["memories"]), (
                        method.name
                    )
            assert await client.export() == before

    for backend in BACKENDS:
        asyncio.run(play(backend))


async def _adas(client: Client) -> dict[str, list[str]]:
    """A finished, an active and a waiting run, and a memory; their names and request ids."""
    request = begin(SECRET)
    active = (await client.BeginRun(request)).run
    waiting = (await client.BeginRun(begin(SECRET))).run
    asked = append(waiting.name, asks(2, CALL))
    asked.park_until.FromDatetime(client.clock.now() + timedelta(hours=1))
    assert (await client.AppendRunEvents(asked)).parked
    done = await turn(client, SECRET)
    memory = await remember(client, SECRET)
    return {
        "sessions": [active.session, waiting.session, done.session],
        "runs": [active.name, waiting.name, done.name],
        "messages": [f"{done.session}/messages/1"],
        "memories": [memory.name],
        "request_id": [request.request_id],
    }


async def _answer(client: Client, method: Any, request: Message) -> str:
    """What the caller is shown, names that it sent itself left out."""
    stub = next(s for s in client._stubs if hasattr(s, method.name))
    try:
        if method.server_streaming:
            stream = client.rpc.server_stream(getattr(stub, method.name), request)
            return "".join([str(response) async for response in stream])
        return str(await client.rpc.unary(getattr(stub, method.name), request))
    except ServiceError as error:
        code = error.code
    assert code in _ALLOWED, (method.name, code)
    return ""

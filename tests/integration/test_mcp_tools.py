"""Tools of real MCP servers over HTTP: calls, failures, secrets, bounds."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from manifests import ToolSource
from manifests.endpoints import SecretFiles
from orchestrator.adapters.mcp_tools import McpTools
from orchestrator.adapters.python_tools import PythonTools
from orchestrator.adapters.tools import ToolSources
from orchestrator.core.tools import ToolFailed
from servicekit.clock import SystemClock
from servicekit.errors import FailedPrecondition, Unavailable
from servicekit.span_wire import carry
from tests.support.mcp_server import TOKEN, McpStandIn, mcp_server
from tests.support.recorded import recorded, root

HEADERS = [{"name": "Authorization", "valueFrom": {"secretKeyRef": {"name": "shop", "key": "token"}}}]


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[ToolSources]:
    mcp, python = McpTools(secrets=SecretFiles(tmp_path), clock=SystemClock()), PythonTools(None)
    work = asyncio.create_task(mcp.work())
    await asyncio.sleep(0)
    yield ToolSources(mcp=mcp, python=python)
    work.cancel()
    await asyncio.wait([work])
    python.close()


@pytest.fixture(params=["stream", "json", "sse"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[McpStandIn]:
    async with mcp_server(json=request.param == "json", sse=request.param == "sse") as server:
        yield server


async def call(tools: ToolSources, source: ToolSource, name: str, *, key: str = "k", **arguments: Any) -> str:
    async with asyncio.timeout(30):
        return await tools.call("default", source, name, arguments, idempotency_key=key)


async def test_a_tool_is_offered_with_its_schema_and_called_with_the_key(
    tools: ToolSources, server: McpStandIn
) -> None:
    source = server.source()
    offered = {tool.name: tool for tool in await tools.offered("default", source)}
    # Not `secret`, which is not allowed, and not `absent`, which the server does not have.
    assert sorted(offered) == ["big", "book", "echo", "fail", "hang", "two_parts"]
    assert offered["echo"].description == "Returns the text."
    properties: Any = offered["echo"].parameters["properties"]
    assert properties["text"]["type"] == "string"
    assert await call(tools, source, "echo", key="runs/r1/#1.1", text="hi") == "echo: hi"
    assert server.calls.keys == ["runs/r1/#1.1"]
    assert await call(tools, source, "two_parts") == "one\ntwo"


async def test_of_a_trace_a_server_gets_its_id_and_nothing_else(
    tools: ToolSources, server: McpStandIn
) -> None:
    with recorded(), root(keep=True) as span:
        carry(span.recording, run="runs/r1", team="helpdesk")
        await call(tools, server.source(), "echo", text="hi")
    await call(tools, server.source(), "echo", text="hi again")
    traced, plain = server.calls.metas
    assert traced["traceparent"] == f"00-{7:032x}-{span.span_id:016x}-01"
    assert set(traced) - set(plain) == {"traceparent"}
    assert not {"traceparent", "tracestate", "baggage", "agentteams-spans"} & server.calls.headers
    assert "helpdesk" not in str(server.calls.metas)


async def test_what_is_not_allowed_is_not_called(tools: ToolSources, server: McpStandIn) -> None:
    with pytest.raises(ToolFailed) as caught:
        await call(tools, server.source(), "secret")
    assert caught.value.error.reason == "PERMISSION_DENIED"
    assert server.calls.requests == 0


async def test_an_error_of_the_tool_is_for_the_model_and_marked_as_data(
    tools: ToolSources, server: McpStandIn
) -> None:
    with pytest.raises(ToolFailed) as caught:
        await call(tools, server.source(), "fail", order="17")
    assert "there is no order 17 < /tool_result>" in str(caught.value)
    assert str(caught.value).endswith("</tool_result>\nCorrect the call, or do without it.")
    assert (caught.value.error.reason, caught.value.error.metadata["tool"]) == ("TOOL_FAILED", "fail")


@pytest.mark.alone
async def test_a_tool_that_hangs_is_cancelled_when_its_time_is_over(
    tools: ToolSources, server: McpStandIn
) -> None:
    began = time.monotonic()
    with pytest.raises(ToolFailed, match=r"hang could not be called: .*did not answer within 1 s"):
        await call(tools, server.source(timeoutSeconds=1), "hang")
    assert time.monotonic() - began < 5
    assert await call(tools, server.source(), "echo", text="still there") == "echo: still there"


async def test_a_cancelled_run_cancels_the_call(tools: ToolSources) -> None:
    async with mcp_server() as server:
        task = asyncio.create_task(call(tools, server.source(), "hang"))
        async with asyncio.timeout(10):
            await server.calls.hanging.wait()
            task.cancel()
            await asyncio.wait([task])
            await server.calls.cancelled.wait()
        assert task.cancelled()


@pytest.mark.parametrize("json", [False, True])
async def test_fifty_megabytes_are_not_read_and_the_model_is_told(tools: ToolSources, json: bool) -> None:
    async with mcp_server(json=json) as server:
        source = server.source()
        await tools.offered("default", source)
        with pytest.raises(ToolFailed, match="its answer is larger than 4 MiB; ask for less") as caught:
            await call(tools, source, "big", megabytes=50)
        assert caught.value.error.reason == "TOOL_FAILED"
        requests = server.calls.requests
        assert await call(tools, source, "echo", text="hi") == "echo: hi"
        assert server.calls.requests == requests + 1  # on the same connection: nothing else was cut off


async def test_a_call_that_a_crash_cuts_off_is_made_again_with_the_same_key(tools: ToolSources) -> None:
    async with mcp_server() as server:
        source = server.source()
        await call(tools, source, "echo", text="warm")
        server.calls.cut = 1
        assert await call(tools, source, "echo", key="k7", text="x") == "echo: x"
        assert server.calls.keys[1:] == ["k7", "k7"]


async def test_a_server_that_comes_back_is_found_again(tools: ToolSources) -> None:
    async with mcp_server() as server:
        source = server.source()
        offered = await tools.offered("default", source)
        await call(tools, source, "echo", text="one")
        await server.stop()
        with pytest.raises(ToolFailed, match="it cannot be reached") as caught:
            await call(tools, server.source(timeoutSeconds=1), "echo", text="two")
        assert caught.value.error.reason == "TOOL_FAILED"
        waiting = asyncio.create_task(call(tools, source, "echo", text="three"))
        await server.start()
        assert await waiting == "echo: three"
        # What it offers is still known from before, though it may be away again.
        await server.stop()
        assert await tools.offered("default", source) == offered


async def test_a_server_that_was_never_there_is_no_empty_list(tools: ToolSources) -> None:
    server = McpStandIn()
    with pytest.raises(Unavailable) as caught:
        await tools.offered("default", server.source(timeoutSeconds=1))
    assert caught.value.reason == "TOOL_FAILED"
    assert "MCP server shop: it cannot be reached" in caught.value.message


async def test_headers_come_from_secrets_and_follow_them(tools: ToolSources, tmp_path: Path) -> None:
    async with mcp_server(token=TOKEN) as server:
        source = server.source(headersFrom=HEADERS)
        with pytest.raises(
            FailedPrecondition, match="key 'token' of secret 'shop' in namespace 'default' is not usable"
        ):
            await tools.offered("default", source)
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop" / "token").write_text("Bearer wrong\n")
        with pytest.raises(ToolFailed, match="HTTP 401; check headersFrom"):
            await call(tools, source, "echo", text="x")
        (tmp_path / "shop" / "token").write_text(f"{TOKEN}\n")
        assert await call(tools, source, "echo", text="x") == "echo: x"
        (tmp_path / "shop" / "token").write_text("Bearer wrong\n")
        with pytest.raises(ToolFailed) as caught:
            await call(tools, source, "echo", text="x")
        assert "HTTP 401" in str(caught.value)
        assert "wrong" not in f"{caught.value}{caught.value.error}"


async def test_one_connection_serves_many_calls(tools: ToolSources, server: McpStandIn) -> None:
    source = server.source()
    await call(tools, source, "echo", text="warm")
    opened = server.calls.requests
    answers = await asyncio.gather(*(call(tools, source, "echo", text=str(n)) for n in range(20)))
    assert answers == [f"echo: {n}" for n in range(20)]
    assert server.calls.requests - opened == 20


async def test_a_slow_call_does_not_hold_up_another_and_survives_a_broken_one(tools: ToolSources) -> None:
    async with mcp_server() as server:
        source = server.source()
        slow = asyncio.create_task(call(tools, source, "hang"))
        async with asyncio.timeout(10):
            await server.calls.hanging.wait()
        with pytest.raises(ToolFailed):
            await call(tools, source, "big", megabytes=6)
        assert await call(tools, source, "echo", text="x") == "echo: x"
        assert not slow.done()
        slow.cancel()
        await asyncio.wait([slow])


class Later:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self._system = SystemClock()
        self.more_s = 0.0

    def now(self) -> datetime:
        return self._system.now()

    def monotonic(self) -> float:
        return self._system.monotonic() + self.more_s


async def test_what_a_server_offers_is_asked_again_after_a_minute(tmp_path: Path) -> None:
    clock, python = Later(), PythonTools(None)
    mcp = McpTools(secrets=SecretFiles(tmp_path), clock=clock)
    tools, work = ToolSources(mcp=mcp, python=python), asyncio.create_task(mcp.work())
    await asyncio.sleep(0)
    async with mcp_server() as server:
        source = server.source(allowedTools=["echo", "late"])
        assert [tool.name for tool in await tools.offered("default", source)] == ["echo"]
        server.add("late")
        requests = server.calls.requests
        clock.more_s = 50
        assert [tool.name for tool in await tools.offered("default", source)] == ["echo"]
        assert server.calls.requests == requests
        clock.more_s = 61
        assert [tool.name for tool in await tools.offered("default", source)] == ["echo", "late"]
        work.cancel()
        await asyncio.wait([work])
    python.close()


async def test_a_server_that_says_that_its_tools_have_changed_is_asked_again(tools: ToolSources) -> None:
    async with mcp_server(sse=True) as server:
        source = server.source(allowedTools=["grow", "late"])
        assert [tool.name for tool in await tools.offered("default", source)] == ["grow"]
        await call(tools, source, "grow")
        async with asyncio.timeout(10):
            while len(await tools.offered("default", source)) < 2:  # noqa: ASYNC110  the notice has its own way
                await asyncio.sleep(0.02)

"""The stack with small children in place of the services."""

import asyncio
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from agentteams_cli import process as process_module
from agentteams_cli import readiness
from agentteams_cli.ports import DEFAULT_PORTS, Port
from agentteams_cli.services import ServiceSpec, plan
from agentteams_cli.stack import Endpoint, Stack, StackConfig, StackError
from agentteams_cli.state import StateFolder

# Answers GET with 200. With "stubborn" it ignores SIGTERM; it prints its pid and that of a child of its own.
SERVER = """
import http.server, os, signal, subprocess, sys, time
port, mode = int(sys.argv[1]), sys.argv[2]
if mode == "crash":
    print("no such database: /nowhere", flush=True)
    sys.exit(7)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if mode == "unready" else 200)
        self.end_headers()
        self.wfile.write(b"waiting")
    def log_message(self, *a): pass
http.server.HTTPServer.allow_reuse_address = True
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

FREE = dict.fromkeys(DEFAULT_PORTS, 0)


def config(folder: Path, **changes: object) -> StackConfig:
    values = {
        "state_dir": folder / "state",
        "chat": Endpoint(url="http://127.0.0.1:1/v1", model="m", api_key="sk-secret"),
        "embedding": folder,
        "ports": FREE,
        "start_timeout_s": 20.0,
    }
    return StackConfig(**(values | changes))  # type: ignore[arg-type]


def children(**modes: str) -> Callable[[StackConfig, Mapping[str, Port]], Sequence[ServiceSpec]]:
    def make(_: StackConfig, ports: Mapping[str, Port]) -> list[ServiceSpec]:
        return [
            ServiceSpec(
                name=name,
                command=(sys.executable, "-c", SERVER, str(ports[name].port), mode),
                env=dict(os.environ),
                port=ports[name],
                probe=readiness.http_ok("/"),
            )
            for name, mode in modes.items()
        ]

    return make


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def descendants(pid: int) -> list[int]:
    try:
        found = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return found + [d for child in found for d in descendants(child)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - a process has no event to wait for
            await asyncio.sleep(0.02)


async def test_starts_all_says_so_and_stops_all(tmp_path: Path) -> None:
    reports: list[tuple[str, str]] = []
    stack = Stack(config(tmp_path), make_plan=children(session="ok", gateway="ok"))
    await stack.start(lambda service, state, _: reports.append((service, state)))
    pids = [s.pid for s in stack.services.values()]
    runtime = StateFolder(tmp_path / "state").read_runtime()
    assert runtime is not None
    assert runtime.pid == os.getpid()
    assert runtime.services["gateway"].port == stack.services["gateway"].port
    assert runtime.services["gateway"].metrics_port == stack.services["gateway"].metrics_port != 0
    assert all(alive(pid) for pid in pids)
    await stack.stop()
    await stack.stop()
    assert not any(alive(pid) for pid in pids)
    assert StateFolder(tmp_path / "state").read_runtime() is None
    assert reports[:2] == [("session", "starting"), ("gateway", "starting")]
    assert set(reports[2:4]) == {("session", "ready"), ("gateway", "ready")}
    # What others need goes last.
    assert reports[4:] == [("gateway", "stopped"), ("session", "stopped")]


async def test_children_are_apart_for_signals_but_not_for_the_scheduler(tmp_path: Path) -> None:
    stack = Stack(config(tmp_path), make_plan=children(session="ok"))
    await stack.start()
    try:
        pid = stack.services["session"].pid
        assert os.getpgid(pid) == pid  # the terminal's Ctrl-C does not reach it
        assert os.getsid(pid) == os.getsid(0)  # or nice would mean nothing between services
    finally:
        await stack.stop()


async def test_state_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with Stack(config(tmp_path), make_plan=children(gateway="ok")):
        key = tmp_path / "state" / "identity.key"
        assert key.stat().st_mode & 0o777 == 0o600
        first = key.read_text()
        assert len(first) == 64
        assert (tmp_path / "state").stat().st_mode & 0o077 == 0
        assert "sk-secret" not in (tmp_path / "state" / "stack.json").read_text()
    async with Stack(config(tmp_path), make_plan=children(gateway="ok")):
        assert (tmp_path / "state" / "identity.key").read_text() == first


@pytest.mark.parametrize("offset", [0, 1000])
async def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path, offset: int) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        stack = Stack(
            config(tmp_path, ports=FREE | {"session": taken - offset}), make_plan=children(session="ok")
        )
        with pytest.raises(StackError) as caught:
            await stack.start()
    assert caught.value.message == f"port {taken}, which session needs, is taken"
    assert "--port session=PORT" in caught.value.fix
    assert stack.services == {}


async def test_one_stack_a_folder(tmp_path: Path) -> None:
    async with Stack(config(tmp_path), make_plan=children(gateway="ok")):
        second = Stack(config(tmp_path), make_plan=children(gateway="ok"))
        with pytest.raises(StackError, match=f"in use by process {os.getpid()}"):
            await second.start()
        await second.stop()
        assert StateFolder(tmp_path / "state").read_runtime() is not None
    async with Stack(config(tmp_path), make_plan=children(gateway="ok")):
        pass


async def test_a_child_that_cannot_start_shows_its_log_and_leaves_nothing(tmp_path: Path) -> None:
    stack = Stack(config(tmp_path), make_plan=children(session="ok", retrieval="crash"))
    with pytest.raises(StackError) as caught:
        await stack.start()
    assert caught.value.message == "retrieval ended before it was ready: exit code 7"
    assert "no such database: /nowhere" in caught.value.detail
    assert "retrieval.log" in caught.value.fix
    assert all(s.pid == 0 for s in stack.services.values())


async def test_a_child_that_does_not_become_ready_says_what_was_seen(tmp_path: Path) -> None:
    async def once_it_listens(port: int) -> None:
        seen = "GET /: nothing"
        while seen.startswith("GET /:"):  # however long this machine takes to start it
            try:
                await readiness.http_ok("/")(port)
            except readiness.NotReady as exc:
                seen = str(exc)
                await asyncio.sleep(0.02)
        raise readiness.NotReady(seen)

    def make(_: StackConfig, ports: Mapping[str, Port]) -> list[ServiceSpec]:
        (spec,) = children(gateway="unready")(_, ports)
        return [dataclasses.replace(spec, probe=once_it_listens)]

    stack = Stack(config(tmp_path, start_timeout_s=0.5), make_plan=make)
    with pytest.raises(StackError, match="gateway is not ready in time: GET / gave 503 waiting"):
        await stack.start()


async def test_a_killed_child_comes_back_on_its_port(tmp_path: Path) -> None:
    reports: list[tuple[str, str, str]] = []
    stack = Stack(config(tmp_path), make_plan=children(gateway="ok", session="ok"))
    await stack.start(lambda *report: reports.append(report))
    try:
        before = stack.services["session"].pid
        os.kill(before, signal.SIGKILL)
        await until(lambda: [r[:2] for r in reports].count(("session", "ready")) == 2)
        after = stack.services["session"]
        assert after.pid not in (0, before)
        assert after.restarts == 1
        assert ("session", "died", "killed by SIGKILL") in reports
        runtime = StateFolder(tmp_path / "state").read_runtime()
        assert runtime is not None
        assert runtime.services["session"].pid == after.pid
    finally:
        await stack.stop()


async def test_a_child_that_keeps_dying_fails_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "FIRST_BACK_OFF_S", 0.001)
    monkeypatch.setattr(process_module, "RESTARTS_PER_MINUTE", 2)
    flag = tmp_path / "die"
    script = f"import os, sys\nif os.path.exists({str(flag)!r}): sys.exit('out of luck')\n" + SERVER

    def make(_: StackConfig, ports: Mapping[str, Port]) -> list[ServiceSpec]:
        port = ports["session"]
        command = (sys.executable, "-c", script, str(port.port), "ok")
        probe = readiness.http_ok("/")
        return [ServiceSpec(name="session", command=command, env=dict(os.environ), port=port, probe=probe)]

    async with Stack(config(tmp_path), make_plan=make) as stack:
        flag.touch()
        os.kill(stack.services["session"].pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            error = await stack.wait_failed()
    assert error.message == "session ended 3 times within a minute"
    assert "out of luck" in error.detail


async def test_a_child_that_ignores_sigterm_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "STOP_GRACE_S", 0.3)
    stack = Stack(config(tmp_path), make_plan=children(gateway="stubborn"))
    await stack.start()
    pid = stack.services["gateway"].pid
    family = [pid, *descendants(pid)]
    assert len(family) == 2
    await stack.stop()
    await until(lambda: not any(alive(p) for p in family))


RUNNER = textwrap.dedent(
    """
    import asyncio, json, pathlib, sys
    from tests.unit.agentteams_cli.test_stack import children, config
    from agentteams_cli.stack import Stack
    async def main():
        plan = children(gateway="ok", session="ok")
        async with Stack(config(pathlib.Path(sys.argv[1])), make_plan=plan) as stack:
            print(json.dumps([c.pid for c in stack.services.values()]), flush=True)
            await stack.wait_failed()
    asyncio.run(main())
    """
)


async def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [sys.executable, "-c", RUNNER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        assert parent.stdout is not None
        pids = json.loads(await asyncio.to_thread(parent.stdout.readline))
        assert all(alive(pid) for pid in pids)
    finally:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
    await until(lambda: not any(alive(pid) for pid in pids))
    # The lock went with it, and its old runtime file deceives nobody.
    assert (tmp_path / "state" / "stack.json").exists()
    assert StateFolder(tmp_path / "state").read_runtime() is None


def test_keys_go_only_to_the_services_that_need_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-user")
    monkeypatch.setenv("AGENTTEAMS_STATE", "elsewhere")
    ports = {name: Port(port=1000 + i, metrics=0) for i, name in enumerate(DEFAULT_PORTS)}
    specs = {s.name: s for s in plan(config(tmp_path), ports)}
    assert "chat" not in specs
    holders = {name for name, spec in specs.items() if "sk-secret" in spec.env.values()}
    assert holders == {"orchestrator", "evaluation"}
    assert not any("sk-user" in spec.env.values() for spec in specs.values())
    assert not any("AGENTTEAMS_STATE" in spec.env for spec in specs.values())
    assert "sk-secret" not in repr(specs) + repr(config(tmp_path))
    with_chat = {s.name: s for s in plan(config(tmp_path, chat="local"), ports)}
    assert with_chat["orchestrator"].env["AGENTTEAMS_BUILTIN_CHAT_URL"] == (
        f"http://127.0.0.1:{ports['chat'].port}/v1"
    )
    assert "127.0.0.1" in with_chat["milvus"].command
    assert with_chat["milvus"].command[-2:] == ("--max-workers", "1")


def test_on_one_machine_the_service_indexes_too(tmp_path: Path) -> None:
    """A worker of its own would take 150 MB; on a cluster it is a Deployment of its own."""
    specs = plan(
        config(tmp_path), {name: Port(port=1000 + n, metrics=0) for n, name in enumerate(DEFAULT_PORTS)}
    )
    (retrieval,) = [spec for spec in specs if "retrieval" in spec.command]
    assert retrieval.command[-1] == "retrieval"
    assert "AGENTTEAMS_INGEST" not in retrieval.env

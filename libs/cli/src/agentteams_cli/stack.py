"""All services of AgentTeams on one machine, as child processes on loopback.

    async with Stack(StackConfig(state_dir=…, chat="local", embedding=folder)) as stack:
        error = await stack.wait_failed()

Children that die are started again with back-off; one that dies more than
five times within a minute fails the stack. On Linux no child outlives this
process, however it ends.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Self

from agentteams_cli.errors import StackError
from agentteams_cli.ports import Port, allocate
from agentteams_cli.process import Report, ServiceProcess
from agentteams_cli.services import Endpoint, ServiceSpec, StackConfig, plan
from agentteams_cli.state import RunningService, RuntimeInfo, StateFolder

__all__ = ["Endpoint", "ServiceProcess", "ServiceSpec", "Stack", "StackConfig", "StackError"]

NEEDED_BY_OTHERS = frozenset({"milvus", "chat", "embedding", "session"})

Plan = Callable[[StackConfig, Mapping[str, Port]], Sequence[ServiceSpec]]


def _silent(service: str, state: str, detail: str) -> None:
    """Reports nothing."""


class Stack:
    """Starts, watches and stops the services. Use it once."""

    def __init__(self, config: StackConfig, *, make_plan: Plan = plan) -> None:
        """`make_plan` says what to run; tests give services of their own."""
        self._config = config
        self._plan = make_plan
        self._state = StateFolder(config.state_dir.absolute())
        self._services: dict[str, ServiceProcess] = {}
        self._report: Report = _silent
        self._held = contextlib.ExitStack()
        self._supervisor: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[StackError] | None = None

    @property
    def services(self) -> Mapping[str, ServiceProcess]:
        """Each service by its name."""
        return MappingProxyType(self._services)

    @property
    def state(self) -> StateFolder:
        return self._state

    @property
    def gateway_url(self) -> str:
        """Base URL of the OpenAI-compatible API."""
        return f"http://127.0.0.1:{self._services['gateway'].port}/v1"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, on_progress: Report = _silent) -> None:
        """Starts all services and waits, side by side, until each is ready.

        Raises:
            StackError: One could not be started; none is left running.
        """
        self._report = on_progress
        self._state.create()
        self._held.enter_context(self._state.locked())
        # Ours alone from here: without the lock the file is that of the stack that has it.
        self._held.callback(self._state.runtime_file.unlink, missing_ok=True)
        try:
            ports = await asyncio.to_thread(allocate, self._config.services)
            for spec in self._plan(self._config, ports):
                self._services[spec.name] = ServiceProcess(
                    spec,
                    log_file=self._state.logs / f"{spec.name}.log",
                    working_dir=self._state.root,
                    report=self._on_report,
                )
            deadline = asyncio.get_running_loop().time() + self._config.start_timeout_s
            for service in self._services.values():
                await service.start()
            await _all_ready(list(self._services.values()), deadline)
            self._write_runtime()
        except BaseException:
            await self.stop()
            raise
        self._failed = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name="stack-supervisor")

    async def wait_failed(self) -> StackError:
        """Returns when a service died too often, with what to tell the user. Waits for ever otherwise."""
        if self._failed is None:
            raise RuntimeError("the stack is not started")
        return await asyncio.shield(self._failed)

    async def stop(self) -> None:
        """Stops all services, those that others need last. Safe to call twice."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait([supervisor])
        # Shielded: a second Ctrl-C must not leave a process behind.
        await asyncio.shield(self._stop_children())
        self._held.close()

    async def _stop_children(self) -> None:
        # Those that others need go last, so that a stop can still be written down.
        for last in (False, True):
            async with asyncio.TaskGroup() as group:
                for service in self._services.values():
                    if (service.name in NEEDED_BY_OTHERS) is last:
                        group.create_task(service.stop())

    async def _supervise(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for service in self._services.values():
                    group.create_task(
                        service.supervise(
                            ready_timeout_s=self._config.start_timeout_s, changed=self._write_runtime
                        )
                    )
        except* StackError as errors:
            if self._failed is not None and not self._failed.done():
                first = errors.exceptions[0]
                self._failed.set_result(first if isinstance(first, StackError) else StackError(str(first)))

    def _on_report(self, service: str, state: str, detail: str) -> None:
        self._report(service, state, detail)

    def _write_runtime(self) -> None:
        config = self._config
        if isinstance(config.chat, Endpoint):
            chat = f"{config.chat.model} at {config.chat.url}"
        else:
            chat = f"{config.chat_model or 'chosen at start'} (local)"
        running = {
            name: RunningService(port=s.port, metrics_port=s.metrics_port, pid=s.pid)
            for name, s in self._services.items()
        }
        self._state.write_runtime(RuntimeInfo(pid=os.getpid(), services=running, chat=chat))


async def _all_ready(services: Sequence[ServiceProcess], deadline: float) -> None:
    """Raises the first failure, and stops waiting for the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for service in services:
                group.create_task(service.wait_ready(deadline))
    except ExceptionGroup as errors:
        # Who ended is the cause; who waits for it in vain is not.
        found = [e for e in errors.exceptions if isinstance(e, StackError)]
        if not found:
            raise
        raise found[0] from errors

"""The process, put together: settings, adapters, app."""

from contextlib import AsyncExitStack
from datetime import timedelta

from starlette.types import ASGIApp

from gateway.adapters.orchestrator_client import OrchestratorClient
from gateway.adapters.orchestrators import Orchestrators
from gateway.adapters.session_client import SessionClient
from gateway.app import build_app
from gateway.auth import LocalUser, load_keys
from gateway.chat import Limits, OpenTurns
from gateway.settings import Settings
from servicekit.calls import issuer_for
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.identity import load_key


async def assemble(settings: Settings, stack: AsyncExitStack, turns: OpenTurns) -> ASGIApp:
    """Everything that serves; `stack` closes it."""
    run_timeout = timedelta(seconds=settings.run_timeout_s)
    start_timeout = timedelta(seconds=settings.start_timeout_s)
    key = load_key(settings.identity_key_file)

    def rpc(target: str, *, owner: str = "") -> RpcClient:
        issuer = issuer_for(key, owner=owner, service="gateway")
        return RpcClient(open_channel(target), issuer=issuer, default_timeout=start_timeout)

    def connect(target: str, *, owner: str = "") -> OrchestratorClient:
        return OrchestratorClient(
            rpc(target, owner=owner),
            clock=SystemClock(),
            start_timeout=start_timeout,
            follow_timeout=run_timeout,
            reconnect=timedelta(seconds=settings.reconnect_s),
        )

    orchestrator = Orchestrators(settings.orchestrator_target, connect=connect)
    stack.push_async_callback(orchestrator.close)
    session = rpc(settings.session_target)
    stack.push_async_callback(session.channel.close)
    return build_app(
        orchestrator=orchestrator,
        conversations=SessionClient(session),
        auth=LocalUser() if settings.api_keys_file is None else load_keys(settings.api_keys_file),
        limits=Limits(
            max_body_bytes=settings.max_body_bytes,
            max_turns=settings.max_turns,
            run_timeout=run_timeout,
            keep_alive=timedelta(seconds=settings.keep_alive_s),
        ),
        turns=turns,
    )

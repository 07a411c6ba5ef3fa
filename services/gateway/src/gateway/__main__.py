"""Starts the gateway: `python -m gateway`."""

import sys
from contextlib import AsyncExitStack
from datetime import timedelta

from pydantic import ValidationError
from starlette.types import ASGIApp

from gateway.adapters.orchestrator_client import OrchestratorClient
from gateway.adapters.orchestrators import Orchestrators
from gateway.app import build_app
from gateway.auth import LocalUser, load_keys
from gateway.chat import Limits, OpenTurns
from gateway.server import run
from gateway.settings import Settings
from servicekit.calls import issuer_for
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.identity import load_key


def main() -> None:
    """Settings -> adapters -> app -> server."""
    try:
        settings = Settings()  # from the environment
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        sys.exit("gateway: wrong settings (environment AGENTTEAMS_…): " + "; ".join(problems))

    async def build(stack: AsyncExitStack, turns: OpenTurns) -> ASGIApp:
        run_timeout = timedelta(seconds=settings.run_timeout_s)
        start_timeout = timedelta(seconds=settings.start_timeout_s)
        key = load_key(settings.identity_key_file)

        def connect(target: str, *, owner: str = "") -> OrchestratorClient:
            issuer = issuer_for(key, owner=owner, service="gateway")
            return OrchestratorClient(
                RpcClient(open_channel(target), issuer=issuer, default_timeout=start_timeout),
                clock=SystemClock(),
                start_timeout=start_timeout,
                follow_timeout=run_timeout,
                reconnect=timedelta(seconds=settings.reconnect_s),
            )

        orchestrator = Orchestrators(settings.orchestrator_target, connect=connect)
        stack.push_async_callback(orchestrator.close)
        keep_alive = timedelta(seconds=settings.keep_alive_s)
        size, turns_at_once = settings.max_body_bytes, settings.max_turns
        limits = Limits(
            max_body_bytes=size, max_turns=turns_at_once, run_timeout=run_timeout, keep_alive=keep_alive
        )
        auth = LocalUser() if settings.api_keys_file is None else load_keys(settings.api_keys_file)
        return build_app(orchestrator=orchestrator, auth=auth, limits=limits, turns=turns)

    run(settings, build)


if __name__ == "__main__":
    main()

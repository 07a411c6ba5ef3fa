"""Puts the server together: supervisor, client, engine, application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from starlette.applications import Starlette

from localmodel.server.admission import Admission
from localmodel.server.app import build_app
from localmodel.server.extractive import ExtractiveEngine
from localmodel.server.model_engine import ModelEngine
from localmodel.server.runtime_client import RuntimeClient
from localmodel.server.runtime_process import PARALLEL
from localmodel.server.supervisor import Supervisor, runtime_command

MAX_WAITING = 16
# A turn of the 1.5B model is 5 to 20 s; whoever waits longer than this is better told.
PATIENCE = timedelta(minutes=3)


def local_app(model: str, path: Path | None, *, threads: int) -> Starlette:
    """Returns the application for a GGUF file, or for the extractive answerer when there is none."""
    admission = Admission(running=PARALLEL, waiting=MAX_WAITING, patience=PATIENCE)
    if path is None:
        return build_app(model=model, engine=ExtractiveEngine(), admission=admission)
    return runtime_app(model, Supervisor(command=runtime_command(path, threads)), admission)


def runtime_app(model: str, supervisor: Supervisor, admission: Admission) -> Starlette:
    """Returns the application in front of a supervised runtime, which lives as long as the application."""
    client = RuntimeClient(address=supervisor.address)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with supervisor, client:
            yield

    return build_app(model=model, engine=ModelEngine(client=client), admission=admission, lifespan=lifespan)

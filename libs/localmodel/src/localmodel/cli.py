"""The command line: fetch models, serve one."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
import uvicorn

from localmodel import assets
from localmodel.errors import AssetError
from localmodel.server.serve import local_app

DEFAULT_PORT = 50060
GRACE_S = 5


def main(arguments: Sequence[str]) -> int:
    """Runs a command and returns the exit code: 0 fine, 1 a problem that was printed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="localmodel", description="Local models for AgentTeams.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="fetch the models that this machine can run")
    serve = commands.add_parser("serve", help="serve a chat model on an OpenAI-compatible endpoint")
    serve.add_argument("--model", help="a model name; default: the best that this machine can run")
    serve.add_argument("--host", default="127.0.0.1", help="there is no authentication: keep it on loopback")
    serve.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)"
    )
    threads = max(1, min(os.cpu_count() or 1, 8))
    serve.add_argument(
        "--threads", type=int, default=threads, help="of the model runtime (default: %(default)s)"
    )
    parsed = parser.parse_args(arguments)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    try:
        if parsed.command == "fetch":
            return _fetch()
        return _serve(parsed)
    except AssetError as exc:
        sys.stderr.write(f"localmodel: {exc}\n")
        return 1


def _fetch() -> int:
    sys.stdout.write(f"embedding: {assets.ensure_embedding_model(_progress)}\n")
    prepared = assets.prepare_chat_model(_progress)
    sys.stdout.write(f"chat: {prepared.path or 'no file'}\n      {prepared.choice.why}\n")
    return 0


def _serve(parsed: argparse.Namespace) -> int:
    name, path = _model(parsed.model)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((parsed.host, parsed.port))
    except OSError as exc:
        sys.stderr.write(f"localmodel: {parsed.host}:{parsed.port}: {exc.strerror}; choose another --port\n")
        return 1
    host, port = listener.getsockname()
    structlog.get_logger().info("serving", model=name, url=f"http://{host}:{port}/v1")
    config = uvicorn.Config(
        local_app(name, path, threads=parsed.threads),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
        backlog=128,
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _model(name: str | None) -> tuple[str, Path | None]:
    if name == assets.EXTRACTIVE:
        return name, None
    if name is not None:
        return name, assets.ensure_chat_model(name, _progress)
    prepared = assets.prepare_chat_model(_progress)
    structlog.get_logger().info("model_chosen", model=prepared.choice.model, why=prepared.choice.why)
    return prepared.choice.model, prepared.path


def _progress(label: str, done: int, total: int) -> None:
    if sys.stderr.isatty() and total:
        sys.stderr.write(
            f"\r{label}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB{chr(10) if done >= total else ''}"
        )

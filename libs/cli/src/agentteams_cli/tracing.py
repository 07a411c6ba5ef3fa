"""Where the local services send their traces."""

import re
from collections.abc import Mapping

import click

_URL = re.compile(r"(https?://)?[^\s/:]+:\d{1,5}")
_PASSED_ON = ("AGENTTEAMS_TRACE_RATIO", "AGENTTEAMS_TRACE_SLOW_S", "AGENTTEAMS_TRACE_CONTENT")


def collector_url(value: str) -> str:
    """The address of a collector, as it was given. Raises click.BadParameter."""
    if value and not _URL.fullmatch(value):
        raise click.BadParameter(f"must be http://HOST:PORT, such as http://127.0.0.1:4317 (got {value!r})")
    return value


def trace_env(otlp: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Settings of the services: on one machine every turn is worth a look, unless the user says otherwise."""
    if not otlp:
        return {}
    chosen = {name: environment[name] for name in _PASSED_ON if name in environment}
    return {"AGENTTEAMS_OTLP_ENDPOINT": otlp, "AGENTTEAMS_TRACE_RATIO": "1"} | chosen

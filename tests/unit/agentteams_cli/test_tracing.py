"""`agentteams up --otlp`."""

import click
import pytest
from click.testing import CliRunner

from agentteams_cli.commands.up import up_command
from agentteams_cli.tracing import collector_url, trace_env


def test_without_a_collector_nothing_is_set() -> None:
    assert trace_env("", {"AGENTTEAMS_TRACE_RATIO": "0.5"}) == {}


def test_every_turn_is_traced_unless_the_user_says_otherwise() -> None:
    set_ = trace_env("http://127.0.0.1:4317", {"AGENTTEAMS_TRACE_CONTENT": "true", "HOME": "/"})
    assert set_ == {
        "AGENTTEAMS_OTLP_ENDPOINT": "http://127.0.0.1:4317",
        "AGENTTEAMS_TRACE_RATIO": "1",
        "AGENTTEAMS_TRACE_CONTENT": "true",
    }
    assert trace_env("c:4317", {"AGENTTEAMS_TRACE_RATIO": "0.1"})["AGENTTEAMS_TRACE_RATIO"] == "0.1"


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:4317", "https://otel.example:443", "collector:4317"])
def test_a_collector_is_named_by_host_and_port(url: str) -> None:
    assert collector_url(url) == url


@pytest.mark.parametrize("url", ["4317", "http://127.0.0.1", "http://127.0.0.1:4317/v1/traces", "a b:1"])
def test_another_address_is_refused_with_the_right_form(url: str) -> None:
    with pytest.raises(click.BadParameter, match="must be http://HOST:PORT"):
        collector_url(url)


@pytest.mark.parametrize("by", ["option", "environment"])
def test_up_looks_at_the_address_before_it_starts_anything(by: str) -> None:
    given = ["--otlp", "nowhere"] if by == "option" else []
    environment = {"AGENTTEAMS_OTLP_ENDPOINT": "nowhere"} if by == "environment" else {}
    result = CliRunner().invoke(up_command, given, env=environment)
    assert result.exit_code == 2
    assert "must be http://HOST:PORT" in result.output

"""The trace of a turn in which a team asks one of another namespace: real services, in local mode."""

from pathlib import Path

import pytest

from agentteams_cli.stack import Endpoint
from tests.support.across import OWNERS_DESK
from tests.support.model_server import ModelServer
from tests.support.otlp import Received, collector, is_run, orphans, path, tree
from tests.support.stack import MODELS, running_stack, until
from tests.support.traced import ask, stored_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TEAM = """
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: house}
spec:
  mode: Broadcast
  modelConfigRef: {name: chat}
  members: [{name: own}, {name: theirs, teamRef: {name: desk, namespace: owner}}]
"""


async def test_the_run_that_was_asked_for_elsewhere_is_part_of_the_trace(tmp_path: Path) -> None:
    async with ModelServer(chunks=12) as model, collector() as collected:
        environment = {"AGENTTEAMS_OTLP_ENDPOINT": collected.endpoint, "AGENTTEAMS_TRACE_RATIO": "0"}
        chat = Endpoint(url=model.base_url, model="stand-in")
        async with running_stack(tmp_path, chat=chat, extra_env=environment) as live:
            await live.apply(MODELS.replace("timeoutSeconds: 2", "timeoutSeconds: 30"), OWNERS_DESK + TEAM)
            answer = await ask(live, "house", "How long is the warranty?", sampled=True)
            assert answer.status == 200, answer.text
            assert (await stored_run(live, answer.run)).summary.called_usage.model_calls == 1

            def come() -> list[Received]:
                spans = collected.traces().get(answer.trace, [])
                runs = [span for span in spans if is_run(span)]
                return spans if len(runs) == 2 and any(s.service == "gateway" for s in spans) else []

            spans = await until(come, what=f"both runs of trace {answer.trace}")
        shown = tree(spans)
        inner = next(s for s in spans if is_run(s) and s.attributes["agentteams.tenant"] == "owner")
        assert path(inner, spans) == [
            "POST /v1/chat/completions",
            "agentteams.orchestrator.v1.OrchestratorService/RunTeam",
            "invoke_agent house",
            "invoke_agent theirs",
            "agentteams.orchestrator.v1.OrchestratorService/RunTeam",
            "invoke_agent desk",
        ], shown
        assert [s.name for s in orphans(spans)] == ["POST /v1/chat/completions"], shown
        (asked,) = [s for s in spans if s.name == "chat chat" and "invoke_agent desk" in path(s, spans)]
        assert asked.attributes["agentteams.tenant"] == "owner"

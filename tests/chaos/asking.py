"""Runs that wait for people: a team that asks before it answers, and users who take their time."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub

from servicekit.client import RpcClient
from servicekit.errors import FailedPrecondition, ServiceError
from tests.chaos.history import Recorder, Said
from tests.support.model_server import ChatRequest, Reply, ToolCall

TEAM = "asking"
TOOL = "ask_user"
MANIFEST = f"""
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {{name: {TEAM}}}
spec:
  modelConfigRef: {{name: chat}}
  tools:
  - {{name: people, builtin: AskUser}}
  members:
  - {{name: host, role: Asks before it answers, knowledge: [docs], tools: [people]}}
  knowledge:
  - {{name: docs, knowledgeBaseRef: {{name: docs}}, topK: 4, search: OnDemand}}
"""
# A run gives its lease up after half a second without work; most users take longer.
_THINKS_S = (0.0, 4.0)
_RETRY_S = (0.1, 0.6)


def ask_first(request: ChatRequest) -> Reply | None:
    """The stand-in model: who can ask the user does so once; else its scenario goes on."""
    if TOOL not in request.tools or request.called(TOOL):
        return None
    return Reply(tool_calls=[ToolCall(name=TOOL, arguments={"question": "Which office is it?"})])


@dataclass(kw_only=True)
class Respondent:
    """The user, when a run asks. Each question is answered until the answer is known to be stored."""

    client: str
    any_rpc: Callable[[], RpcClient]
    recorder: Recorder
    dice: random.Random
    wait_until: float

    async def answer(self, run: str, call: str) -> None:
        """Answers once; now and then twice, as one who did not get the reply, or changes their mind."""
        await asyncio.sleep(self.dice.uniform(*_THINKS_S))  # as a person does
        text = f"office {self.dice.randint(1, 999)}"
        again = self.dice.choice(("", "", text, f"{text}, no, another one"))
        for said in filter(None, (text, again)):
            if not await self._say(Said(client=self.client, run=run, call=call, text=said)):
                return

    async def _say(self, said: Said) -> bool:
        """Whether the run may still be told something."""
        request = pb.AnswerQuestionRequest(run=said.run, call_id=said.call, answer=said.text)
        while time.monotonic() < self.wait_until:
            rpc = self.any_rpc()
            try:
                await rpc.unary(OrchestratorServiceStub(rpc.channel).AnswerQuestion, request)
            except FailedPrecondition:
                return False  # it has ended: cancelled, or told by the first of two
            except ServiceError as error:
                if error.reason == "INPUT_PROVIDED":
                    self.recorder.note("already_answered", self.client, run=said.run)
                    return True
                self.recorder.note("not_answered", self.client, run=said.run, reason=error.reason)
                await asyncio.sleep(self.dice.uniform(*_RETRY_S))
                continue
            self.recorder.said(said)
            return True
        return False

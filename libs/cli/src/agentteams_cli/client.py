"""The services, as the commands see them."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as orchestrator_pb
from agentteams.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from agentteams.retrieval.v1 import filter_pb2 as filter_pb
from agentteams.retrieval.v1 import index_pb2 as index_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as session_service_pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub

from agentteams_cli.conversations import Conversations
from agentteams_cli.errors import CliError, StackError, Unreachable
from agentteams_cli.evaluations import Evaluations
from agentteams_cli.knowledge import Knowledge
from agentteams_cli.paging import pages
from agentteams_cli.scores import Scores
from agentteams_cli.state import RuntimeInfo, StateFolder
from manifests import DEFAULT_NAMESPACE, KnowledgeBase
from manifests.knowledge_pb import to_pb
from servicekit.client import RpcClient, open_channel
from servicekit.context import Caller, scope
from servicekit.errors import DeadlineExceeded, ServiceError, Unavailable
from servicekit.identity import TokenIssuer, load_key

# The one user of this machine, as the gateway calls whoever comes without a key.
LOCAL_CALLER = Caller(tenant=DEFAULT_NAMESPACE, user="local")
CALL_TIMEOUT = timedelta(seconds=30)
# Creating a knowledge base asks the model for its dimension, which may have to be loaded first.
CREATE_TIMEOUT = timedelta(seconds=60)
UPLOAD_TIMEOUT = timedelta(minutes=10)
STREAM_TIMEOUT = timedelta(hours=2)
# How long a lost stream is sought before the user is told.
RECONNECT_S = 30.0
UPLOAD_BYTES = 256 * 1024
PAGE_SIZE = 500

StreamItem = run_pb2.RunEvent | orchestrator_pb.TextDelta


class Client:
    """Typed calls to the services; raises ServiceError as `servicekit.client` does.

    Attributes:
        conversations: Sessions, memories, and all that belongs to a user.
        evaluations: Golden sets, and what was measured with them.
        knowledge: Failures and exports of knowledge bases.
        scores: Of runs, and golden sets of teams.
    """

    def __init__(
        self, *, orchestrator: RpcClient, retrieval: RpcClient, session: RpcClient, evaluation: RpcClient
    ) -> None:
        self._orchestrator = orchestrator
        self._retrieval = retrieval
        self._session = session
        self._teams = OrchestratorServiceStub(orchestrator.channel)
        self._knowledge = RetrievalServiceStub(retrieval.channel)
        self._sessions = SessionServiceStub(session.channel)
        self.conversations = Conversations(session)
        self.evaluations = Evaluations(retrieval)
        self.knowledge = Knowledge(retrieval)
        self.scores = Scores(session=session, evaluation=evaluation)

    async def team(self, name: str) -> orchestrator_pb.Team:
        """One team by its manifest's name."""
        request = orchestrator_pb.GetTeamRequest(name=f"teams/{name}")
        return await self._orchestrator.unary(self._teams.GetTeam, request)

    async def teams(self) -> list[orchestrator_pb.Team]:
        """All teams."""

        async def page(token: str) -> tuple[Sequence[orchestrator_pb.Team], str]:
            request = orchestrator_pb.ListTeamsRequest(page_size=200, page_token=token)
            response = await self._orchestrator.unary(self._teams.ListTeams, request)
            return response.teams, response.next_page_token

        return [team async for team in pages(page)]

    async def start_run(self, team: str, question: str, *, session: str = "") -> run_pb2.Run:
        """Asks a team; `session` is empty for a new conversation."""
        request = orchestrator_pb.StartRunRequest(
            team=f"teams/{team}",
            session=session,
            input=[session_pb2.Message(role=session_pb2.ROLE_USER, content=question)],
            request_id=str(uuid.uuid4()),
        )
        return await self._orchestrator.unary(self._teams.StartRun, request)

    async def follow(self, run: str) -> AsyncIterator[StreamItem]:
        """Everything that happens in a run until its end; a stream that breaks is taken up where it broke."""
        last, lost_at = 0, 0.0
        while True:
            request = orchestrator_pb.StreamRunEventsRequest(run=run, after_sequence=last)
            stream = self._orchestrator.server_stream(
                self._teams.StreamRunEvents, request, timeout=STREAM_TIMEOUT
            )
            try:
                async with contextlib.aclosing(stream):  # type: ignore[type-var]
                    async for response in stream:
                        lost_at = 0.0
                        for item in response.items:
                            if item.HasField("text_delta"):
                                yield item.text_delta
                                continue
                            last = item.event.sequence
                            yield item.event
                            if item.event.HasField("run_finished"):
                                return
            except (Unavailable, DeadlineExceeded):
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > RECONNECT_S:
                    raise
            # A stream that ends without run_finished is a lost one too: the orchestrator was stopped.
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > RECONNECT_S:
                raise Unreachable(f"the stream of {run} ends again and again", fix="see `agentteams doctor`")
            await asyncio.sleep(0.3)

    async def cancel_run(self, run: str) -> None:
        """Stops a run."""
        await self._orchestrator.unary(
            self._teams.CancelRun, orchestrator_pb.CancelRunRequest(name=run), timeout=timedelta(seconds=5)
        )

    async def approve(self, run: str, call_id: str, *, approved: bool, reason: str = "") -> run_pb2.Run:
        """Allows or refuses a tool call that waits for it."""
        request = orchestrator_pb.ApproveToolCallRequest(
            run=run, call_id=call_id, decision=run_pb2.ToolDecision(approved=approved, reason=reason)
        )
        return await self._orchestrator.unary(self._teams.ApproveToolCall, request)

    async def answer_question(self, run: str, call_id: str, answer: str) -> run_pb2.Run:
        """Answers a question that the team has asked the user."""
        request = orchestrator_pb.AnswerQuestionRequest(run=run, call_id=call_id, answer=answer)
        return await self._orchestrator.unary(self._teams.AnswerQuestion, request)

    async def run(self, name: str) -> run_pb2.Run:
        """One run."""
        return await self._session.unary(self._sessions.GetRun, session_service_pb.GetRunRequest(name=name))

    async def runs(self, *, team: str = "", state: str = "", limit: int = 20) -> list[run_pb2.Run]:
        """The newest runs; `state` as in RunState, in small letters and without prefix."""
        request = session_service_pb.ListRunsRequest(
            team=f"teams/{team}" if team else "",
            state=run_pb2.RunState.Value(f"RUN_STATE_{state.upper() or 'UNSPECIFIED'}"),
            page_size=min(limit, 200),
        )
        return list((await self._session.unary(self._sessions.ListRuns, request)).runs)

    async def run_events(self, name: str) -> list[run_pb2.RunEvent]:
        """The log of a run."""
        events: list[run_pb2.RunEvent] = []
        while True:
            request = session_service_pb.ListRunEventsRequest(
                run=name, after_sequence=events[-1].sequence if events else 0, page_size=PAGE_SIZE
            )
            found = (await self._session.unary(self._sessions.ListRunEvents, request)).events
            if not found:
                return events
            events += found

    async def create_knowledge_base(self, manifest: KnowledgeBase) -> kb_pb.KnowledgeBase:
        """Makes or changes what the manifest asks for; the same again changes nothing."""
        request = retrieval_pb.CreateKnowledgeBaseRequest(knowledge_base=to_pb(manifest))
        return await self._retrieval.unary(
            self._knowledge.CreateKnowledgeBase, request, timeout=CREATE_TIMEOUT
        )

    async def knowledge_bases(self) -> list[kb_pb.KnowledgeBase]:
        """All knowledge bases."""

        async def page(token: str) -> tuple[Sequence[kb_pb.KnowledgeBase], str]:
            request = retrieval_pb.ListKnowledgeBasesRequest(page_size=200, page_token=token)
            response = await self._retrieval.unary(self._knowledge.ListKnowledgeBases, request)
            return response.knowledge_bases, response.next_page_token

        return [knowledge_base async for knowledge_base in pages(page)]

    async def knowledge_base(self, name: str) -> kb_pb.KnowledgeBase:
        """One knowledge base by its manifest's name."""
        request = retrieval_pb.GetKnowledgeBaseRequest(name=f"knowledgeBases/{name}")
        return await self._retrieval.unary(self._knowledge.GetKnowledgeBase, request)

    async def documents(self, knowledge_base: str, *, state: str = "") -> AsyncIterator[kb_pb.Document]:
        """Documents of a knowledge base; `state` as in DocumentState, in small letters and without prefix."""
        wanted = kb_pb.DocumentState.Value(f"DOCUMENT_STATE_{state.upper() or 'UNSPECIFIED'}")

        async def page(token: str) -> tuple[Sequence[kb_pb.Document], str]:
            request = retrieval_pb.ListDocumentsRequest(
                parent=f"knowledgeBases/{knowledge_base}", page_size=1000, page_token=token, state=wanted
            )
            response = await self._retrieval.unary(self._knowledge.ListDocuments, request)
            return response.documents, response.next_page_token

        async for document in pages(page):
            yield document

    async def retry_documents(self, knowledge_base: str, names: Sequence[str]) -> int:
        """Queues failed documents anew, at most 1,000; returns how many there were."""
        request = retrieval_pb.RetryDocumentsRequest(parent=f"knowledgeBases/{knowledge_base}", names=names)
        return (await self._retrieval.unary(self._knowledge.RetryDocuments, request)).queued

    async def upload(
        self,
        knowledge_base: str,
        file: Path,
        *,
        path: str,
        metadata: Mapping[str, filter_pb.Value] = MappingProxyType({}),
    ) -> kb_pb.Document:
        """Stores a file as the document `path` with all its metadata; it is indexed afterwards.

        Raises:
            OSError: The file cannot be read.
        """
        header = retrieval_pb.UploadHeader(
            parent=f"knowledgeBases/{knowledge_base}", path=path, metadata=metadata
        )
        with await asyncio.to_thread(file.open, "rb") as content:

            async def requests() -> AsyncIterator[object]:
                yield retrieval_pb.UploadDocumentRequest(header=header)
                while piece := await asyncio.to_thread(content.read, UPLOAD_BYTES):
                    yield retrieval_pb.UploadDocumentRequest(content=piece)

            return await self._retrieval.client_stream(
                self._knowledge.UploadDocument, requests(), timeout=UPLOAD_TIMEOUT
            )

    async def tune(self, knowledge_base: str) -> index_pb.Tuning:
        """Queues a measurement of its index."""
        request = retrieval_pb.TuneKnowledgeBaseRequest(name=f"knowledgeBases/{knowledge_base}")
        return await self._retrieval.unary(self._knowledge.TuneKnowledgeBase, request)

    async def search(self, request: retrieval_pb.SearchRequest) -> retrieval_pb.SearchResponse:
        """Searches as an agent does."""
        return await self._retrieval.unary(self._knowledge.Search, request)


def running(state: StateFolder) -> RuntimeInfo:
    """Where the services are.

    Raises:
        Unreachable: None run on that folder.
    """
    runtime = state.read_runtime()
    if runtime is None:
        raise Unreachable(
            f"no services run on the state folder {state.root}",
            fix="start them with `agentteams up`, or name their folder with --state",
        )
    return runtime


@contextlib.asynccontextmanager
async def connect(state: StateFolder) -> AsyncIterator[Client]:
    """A client of the services that run on a state folder.

    Raises:
        Unreachable: None run there.
    """
    runtime = running(state)
    try:
        issuer = TokenIssuer(load_key(state.identity_key), service="cli")
    except ValueError as exc:
        raise StackError(str(exc), fix="delete the file and restart `agentteams up`") from exc
    async with contextlib.AsyncExitStack() as stack:

        def rpc(service: str) -> RpcClient:
            channel = open_channel(runtime.target(service))
            stack.push_async_callback(channel.close)
            return RpcClient(channel, issuer=issuer, default_timeout=CALL_TIMEOUT)

        client = Client(
            orchestrator=rpc("orchestrator"),
            retrieval=rpc("retrieval"),
            session=rpc("session"),
            evaluation=rpc("evaluation"),
        )
        with scope(caller=LOCAL_CALLER):
            yield client


def explain(error: ServiceError) -> CliError:
    """What a service's error means for the user of the command."""
    if isinstance(error, Unavailable | DeadlineExceeded) and error.reason in _NO_ANSWER:
        return Unreachable(error.message, fix="see `agentteams doctor`")
    return CliError(error.message, fix=_FIXES.get(error.reason, ""))


_NO_ANSWER = ("DEPENDENCY_UNAVAILABLE", "DEADLINE_TOO_SHORT")
_FIXES = {
    "TEAM_NOT_FOUND": "`agentteams doctor` lists the teams; add one with `agentteams apply -f FILE`",
    "KNOWLEDGE_BASE_NOT_FOUND": "`agentteams doctor` lists them; add one with `agentteams apply -f FILE`",
    "GOLDEN_SET_NOT_FOUND": "give one with --golden FILE",
    "RUN_NOT_FOUND": "`agentteams runs list` shows the newest",
    "SESSION_NOT_FOUND": "`agentteams sessions list` shows those that were used last",
    "MEMORY_NOT_FOUND": "`agentteams memories list` shows them",
    "INPUT_NOT_REQUESTED": "`agentteams runs show RUN` shows what it asks for",
    "UNAUTHENTICATED": "the identity key was changed: restart `agentteams up`",
}

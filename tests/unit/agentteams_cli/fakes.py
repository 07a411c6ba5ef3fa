"""The services as the command line sees them: real gRPC, answers from memory.

A server of threads, because the command under test runs an event loop of its
own and grpc.aio does not like two in one process.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest
from agentteams.evaluation.v1 import evaluation_service_pb2 as team_pb
from agentteams.evaluation.v1.evaluation_service_pb2_grpc import (
    EvaluationServiceServicer,
    add_EvaluationServiceServicer_to_server,
)
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as orchestrator_pb
from agentteams.orchestrator.v1.orchestrator_service_pb2_grpc import (
    OrchestratorServiceServicer,
    add_OrchestratorServiceServicer_to_server,
)
from agentteams.retrieval.v1 import evaluation_pb2 as evaluation_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import (
    RetrievalServiceServicer,
    add_RetrievalServiceServicer_to_server,
)
from agentteams.session.v1 import golden_sets_pb2 as golden_pb
from agentteams.session.v1 import run_pb2, run_scores_pb2, scores_pb2
from agentteams.session.v1 import session_service_pb2 as session_pb
from agentteams.session.v1.golden_sets_pb2_grpc import (
    GoldenSetServiceServicer,
    add_GoldenSetServiceServicer_to_server,
)
from agentteams.session.v1.scores_pb2_grpc import ScoreServiceServicer, add_ScoreServiceServicer_to_server
from agentteams.session.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    add_SessionServiceServicer_to_server,
)
from click.testing import CliRunner, Result

from agentteams_cli.__main__ import agentteams
from agentteams_cli.state import RunningService, RuntimeInfo, StateFolder
from manifests import Catalogue
from servicekit.errors import DETAILS_KEY, InvalidArgument, NotFound, ServiceError, status_from_error

HEAD = "apiVersion: agentteams.dev/v1alpha1\n"
CHAT = HEAD + "kind: ModelConfig\nmetadata: {name: chat}\nspec: {type: Chat, provider: BuiltIn}\n"
EMBED = HEAD + "kind: ModelConfig\nmetadata: {name: embed}\nspec: {type: Embedding, provider: BuiltIn}\n"
DOCS = HEAD + (
    "kind: KnowledgeBase\nmetadata: {name: docs}\nspec:\n  embedding: {modelConfigRef: {name: embed}}\n"
    "  chunking: {maxTokens: 100, overlapTokens: 10}\n  retrieval: {searchMode: Dense}\n"
)
TEAM = HEAD + (
    "kind: AgentTeam\nmetadata: {name: docs-team}\nspec:\n  modelConfigRef: {name: chat}\n"
    "  members: [{name: solo, knowledge: [docs]}]\n"
    "  knowledge: [{name: docs, knowledgeBaseRef: {name: docs}}]\n"
)
ALL = "---\n".join((TEAM, DOCS, CHAT, EMBED))

Run = Callable[..., Result]

# What a stream does between two items: break off with UNAVAILABLE, or wait for ever.
BREAK = "break"
STALL = "stall"


@dataclass
class Scenario:
    """What the services hold, and what was asked of them."""

    state: StateFolder
    knowledge_bases: dict[str, kb_pb.KnowledgeBase] = field(default_factory=dict)
    documents: dict[str, kb_pb.Document] = field(default_factory=dict)
    search: retrieval_pb.SearchResponse = field(default_factory=retrieval_pb.SearchResponse)
    searched: list[retrieval_pb.SearchRequest] = field(default_factory=list)
    stream: Sequence[orchestrator_pb.RunItem | str] = ()
    events: Sequence[run_pb2.RunEvent] = ()
    runs: Sequence[run_pb2.Run] = ()
    started: list[orchestrator_pb.StartRunRequest] = field(default_factory=list)
    resumed_after: list[int] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    golden_set: evaluation_pb.GoldenSet = field(default_factory=evaluation_pb.GoldenSet)
    evaluations: list[evaluation_pb.Evaluation] = field(default_factory=list)
    """Newest first."""
    evaluation: Sequence[evaluation_pb.EvaluateKnowledgeBaseResponse] = ()
    exported: Sequence[retrieval_pb.ExportChunksResponse] = ()
    exports: list[retrieval_pb.ExportChunksRequest] = field(default_factory=list)
    evaluated: list[evaluation_pb.EvaluateKnowledgeBaseRequest] = field(default_factory=list)
    scores: run_scores_pb2.RunScores | None = None
    waited: list[float] = field(default_factory=list)
    """Seconds that GetRunScores was asked to wait."""
    team_evaluations: Sequence[scores_pb2.TeamEvaluation] = ()
    team_evaluation: Sequence[team_pb.EvaluateTeamResponse] = ()
    team_golden_set: golden_pb.TeamGoldenSet | None = None
    golden_sets_set: list[golden_pb.SetTeamGoldenSetRequest] = field(default_factory=list)
    golden_questions: Sequence[team_pb.GoldenQuestion] = ()
    stopping: threading.Event = field(default_factory=threading.Event)
    models_seen_after: int = 0
    """How often CreateKnowledgeBase says MODEL_NOT_FOUND before it works."""


def fail(context: Any, error: ServiceError) -> NoReturn:
    status = status_from_error(error)
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.abort(error.code, error.message)
    raise AssertionError("abort raises")


class Orchestrator(OrchestratorServiceServicer):
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._broken = 0

    def StartRun(self, request: Any, context: Any) -> run_pb2.Run:
        self._team(request.team, context)
        self._scenario.started.append(request)
        return run_pb2.Run(name="runs/r1", team=request.team, session=request.session or "sessions/s1")

    def StreamRunEvents(
        self, request: Any, context: Any
    ) -> Iterator[orchestrator_pb.StreamRunEventsResponse]:
        self._scenario.resumed_after.append(request.after_sequence)
        breaks = 0
        for item in self._scenario.stream:
            if item == BREAK:
                breaks += 1
                if breaks > self._broken:
                    self._broken += 1
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the orchestrator was killed")
            elif item == STALL:
                self._scenario.stopping.wait(30)
            elif isinstance(item, orchestrator_pb.RunItem) and (
                item.WhichOneof("item") == "text_delta" or item.event.sequence > request.after_sequence
            ):
                yield orchestrator_pb.StreamRunEventsResponse(items=[item])

    def CancelRun(self, request: Any, context: Any) -> run_pb2.Run:
        self._scenario.cancelled.append(request.name)
        return run_pb2.Run(name=request.name)

    def ApproveToolCall(self, request: Any, context: Any) -> run_pb2.Run:
        self._scenario.inputs.append(request)
        return run_pb2.Run(name=request.run)

    def AnswerQuestion(self, request: Any, context: Any) -> run_pb2.Run:
        self._scenario.inputs.append(request)
        return run_pb2.Run(name=request.run)

    def GetTeam(self, request: Any, context: Any) -> orchestrator_pb.Team:
        return self._team(request.name, context)

    def ListTeams(self, request: Any, context: Any) -> orchestrator_pb.ListTeamsResponse:
        catalogue = Catalogue(self._scenario.state.manifests)
        catalogue.load()
        names = [t.metadata.name for t in catalogue.teams("default")]
        return orchestrator_pb.ListTeamsResponse(teams=[self._team(f"teams/{n}", context) for n in names])

    def _team(self, name: str, context: Any) -> orchestrator_pb.Team:
        catalogue = Catalogue(self._scenario.state.manifests)
        catalogue.load()
        short = name.removeprefix("teams/")
        team = catalogue.team("default", short)
        if team is None:
            fail(context, NotFound(f"team {short} does not exist", reason="TEAM_NOT_FOUND"))
        problems = catalogue.team_problems("default", short)
        return orchestrator_pb.Team(
            name=name, revision=team.revision, ready=not problems, reason="; ".join(problems)
        )


class Retrieval(RetrievalServiceServicer):
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def CreateKnowledgeBase(self, request: Any, context: Any) -> kb_pb.KnowledgeBase:
        if self._scenario.models_seen_after:
            self._scenario.models_seen_after -= 1
            fail(context, NotFound("no model embed", reason="MODEL_NOT_FOUND"))
        self._scenario.knowledge_bases[request.knowledge_base.name] = request.knowledge_base
        return kb_pb.KnowledgeBase(name=request.knowledge_base.name)

    def GetKnowledgeBase(self, request: Any, context: Any) -> kb_pb.KnowledgeBase:
        found = self._scenario.knowledge_bases.get(request.name)
        if found is None:
            fail(context, NotFound(f"{request.name} does not exist", reason="KNOWLEDGE_BASE_NOT_FOUND"))
        return found

    def ListKnowledgeBases(self, request: Any, context: Any) -> retrieval_pb.ListKnowledgeBasesResponse:
        return retrieval_pb.ListKnowledgeBasesResponse(
            knowledge_bases=list(self._scenario.knowledge_bases.values())
        )

    def UploadDocument(self, requests: Any, context: Any) -> kb_pb.Document:
        header = next(requests).header
        content = b"".join(r.content for r in requests)
        if header.path.endswith(".exe"):
            error = InvalidArgument("programs are not supported", reason="DOCUMENT_TYPE_UNSUPPORTED")
            fail(context, error)
        if not content:
            fail(context, InvalidArgument("it has no bytes", reason="DOCUMENT_EMPTY"))
        name = f"{header.parent}/documents/{hashlib.sha256(header.path.encode()).hexdigest()[:8]}"
        document = kb_pb.Document(
            name=name,
            path=header.path,
            size_bytes=len(content),
            state=kb_pb.DOCUMENT_STATE_PENDING,
            metadata=header.metadata,
        )
        self._scenario.documents[name] = document
        return document

    def ExportChunks(self, request: Any, context: Any) -> Iterator[retrieval_pb.ExportChunksResponse]:
        self._scenario.exports.append(request)
        yield from self._scenario.exported

    def ListDocuments(self, request: Any, context: Any) -> retrieval_pb.ListDocumentsResponse:
        if request.state:
            found = [d for d in self._scenario.documents.values() if d.state == request.state]
            return retrieval_pb.ListDocumentsResponse(documents=found[: request.page_size])
        # Each look brings every document one state further.
        for document in self._scenario.documents.values():
            if document.state == kb_pb.DOCUMENT_STATE_PENDING:
                document.state = kb_pb.DOCUMENT_STATE_INDEXING
            elif document.state == kb_pb.DOCUMENT_STATE_INDEXING and document.path.endswith(".pdf"):
                document.state = kb_pb.DOCUMENT_STATE_FAILED
                document.error.message = "no readable PDF"
            elif document.state == kb_pb.DOCUMENT_STATE_INDEXING:
                document.state = kb_pb.DOCUMENT_STATE_READY
                document.chunk_count = 3
        # Two pages, so that the second is asked for.
        everything = [d for d in self._scenario.documents.values() if request.state in (0, d.state)]
        middle = len(everything) // 2
        if request.page_token:
            return retrieval_pb.ListDocumentsResponse(documents=everything[middle:])
        return retrieval_pb.ListDocumentsResponse(documents=everything[:middle], next_page_token="2")

    def RetryDocuments(self, request: Any, context: Any) -> retrieval_pb.RetryDocumentsResponse:
        for name in request.names:
            self._scenario.documents[name].state = kb_pb.DOCUMENT_STATE_PENDING
        return retrieval_pb.RetryDocumentsResponse(queued=len(request.names))

    def Search(self, request: Any, context: Any) -> retrieval_pb.SearchResponse:
        self._scenario.searched.append(request)
        return self._scenario.search

    def SetGoldenSet(self, request: Any, context: Any) -> evaluation_pb.GoldenSet:
        self._scenario.golden_set = request.golden_set
        self._scenario.golden_set.sha256 = "new"
        return self._scenario.golden_set

    def GetGoldenSet(self, request: Any, context: Any) -> evaluation_pb.GoldenSet:
        if not self._scenario.golden_set.queries:
            fail(context, NotFound(f"{request.parent} has no golden set", reason="GOLDEN_SET_NOT_FOUND"))
        return self._scenario.golden_set

    def EvaluateKnowledgeBase(
        self, request: Any, context: Any
    ) -> Iterator[evaluation_pb.EvaluateKnowledgeBaseResponse]:
        self._scenario.evaluated.append(request)
        yield from self._scenario.evaluation

    def ListEvaluations(self, request: Any, context: Any) -> evaluation_pb.ListEvaluationsResponse:
        # Of a walk through all of them one a page.
        first, size = int(request.page_token or 0), 1 if request.page_size == 100 else request.page_size
        more = str(first + size) if first + size < len(self._scenario.evaluations) else ""
        return evaluation_pb.ListEvaluationsResponse(
            evaluations=self._scenario.evaluations[first : first + size], next_page_token=more
        )


class Scores(ScoreServiceServicer):
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def GetRunScores(self, request: Any, context: Any) -> run_scores_pb2.RunScores:
        if self._scenario.scores is None:
            fail(context, NotFound(f"{request.run} has no scores", reason="SCORES_NOT_FOUND"))
        if request.HasField("wait"):
            self._scenario.waited.append(request.wait.ToTimedelta().total_seconds())
        return self._scenario.scores

    def ListTeamEvaluations(self, request: Any, context: Any) -> scores_pb2.ListTeamEvaluationsResponse:
        return scores_pb2.ListTeamEvaluationsResponse(evaluations=self._scenario.team_evaluations)


class GoldenSets(GoldenSetServiceServicer):
    """At most one, of whichever team."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def GetTeamGoldenSet(self, request: Any, context: Any) -> golden_pb.TeamGoldenSet:
        if self._scenario.team_golden_set is None:
            fail(context, NotFound(f"{request.team} has none", reason="GOLDEN_SET_NOT_FOUND"))
        return self._scenario.team_golden_set

    def SetTeamGoldenSet(self, request: Any, context: Any) -> golden_pb.TeamGoldenSet:
        self._scenario.golden_sets_set.append(request)
        self._scenario.team_golden_set = (
            golden_pb.TeamGoldenSet(team=request.team) if request.questions else None
        )
        return golden_pb.TeamGoldenSet(team=request.team)


class Evaluation(EvaluationServiceServicer):
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def EvaluateTeam(self, request: Any, context: Any) -> Iterator[team_pb.EvaluateTeamResponse]:
        self._scenario.golden_questions = list(request.questions)
        yield from self._scenario.team_evaluation


class Session(SessionServiceServicer):
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def ListRuns(self, request: Any, context: Any) -> session_pb.ListRunsResponse:
        runs = [run for run in self._scenario.runs if request.state in (0, run.state)]
        return session_pb.ListRunsResponse(runs=runs)

    def GetRun(self, request: Any, context: Any) -> run_pb2.Run:
        for run in self._scenario.runs:
            if run.name == request.name:
                return run
        fail(context, NotFound(f"{request.name} does not exist", reason="RUN_NOT_FOUND"))

    def ListRunEvents(self, request: Any, context: Any) -> session_pb.ListRunEventsResponse:
        events = [e for e in self._scenario.events if e.sequence > request.after_sequence]
        return session_pb.ListRunEventsResponse(events=events)


@contextmanager
def serving(folder: Path) -> Iterator[Scenario]:
    """Services that a command finds through the state folder."""
    state = StateFolder(folder)
    state.create()
    scenario = Scenario(state)
    with ThreadPoolExecutor(max_workers=8) as pool:
        server = grpc.server(pool)
        add_OrchestratorServiceServicer_to_server(Orchestrator(scenario), server)  # type: ignore[abstract]
        add_RetrievalServiceServicer_to_server(Retrieval(scenario), server)  # type: ignore[abstract]
        add_SessionServiceServicer_to_server(Session(scenario), server)  # type: ignore[abstract]
        add_ScoreServiceServicer_to_server(Scores(scenario), server)  # type: ignore[abstract]
        add_GoldenSetServiceServicer_to_server(GoldenSets(scenario), server)  # type: ignore[abstract]
        add_EvaluationServiceServicer_to_server(Evaluation(scenario), server)  # type: ignore[abstract]
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        one = RunningService(port=port, metrics_port=0, pid=1)
        services = dict.fromkeys(("orchestrator", "retrieval", "session", "evaluation"), one)
        try:
            with state.locked():
                state.write_runtime(RuntimeInfo(pid=1, services=services, chat="test"))
                yield scenario
        finally:
            scenario.stopping.set()
            server.stop(0).wait()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls the command in a folder of its own."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("AGENTTEAMS_STATE", str(tmp_path / "state"))

    def call(*arguments: str, text: str | None = None) -> Result:
        result = CliRunner().invoke(agentteams, arguments, input=text)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


@pytest.fixture
def services(tmp_path: Path, run: Run) -> Iterator[Scenario]:
    with serving(tmp_path / "state") as scenario:
        Path("m.yaml").write_text(ALL)
        assert run("apply", "-f", "m.yaml").exit_code == 0
        yield scenario

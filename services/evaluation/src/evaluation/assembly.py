"""The process, put together: settings, adapters, core, servicer."""

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from datetime import timedelta

from evaluation.adapters.embedding_client import EmbeddingClient
from evaluation.adapters.golden_sets import SessionGoldenSets
from evaluation.adapters.judges import EndpointJudges
from evaluation.adapters.orchestrator_client import OrchestratorAsker
from evaluation.adapters.session_client import SessionRuns
from evaluation.adapters.teams import ManifestTeams
from evaluation.core.budget import MinuteBudget
from evaluation.core.evaluator import Evaluator
from evaluation.core.golden import GoldenRuns
from evaluation.core.golden_worker import GoldenWorker
from evaluation.core.judge import Memory
from evaluation.core.worker import SERVICE, Times, Worker
from evaluation.metrics import JUDGES, TEAMS, WAITING, Telemetry, golden_set_ended, golden_sets_seen
from evaluation.servicer import EvaluationServicer, evaluation_service
from evaluation.settings import Settings
from manifests import Source, cluster_source, folder_source
from manifests.endpoints import ModelEndpoint, SecretFiles
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.identity import TokenIssuer, load_key
from servicekit.ids import new_id
from servicekit.server import Assembly

_CALL = timedelta(seconds=30)


async def assemble(settings: Settings, stack: AsyncExitStack) -> Assembly:
    """Everything that serves; `stack` closes it."""
    clock = SystemClock()
    issuer = TokenIssuer(load_key(settings.identity_key_file), service=SERVICE)

    def rpc(target: str) -> RpcClient:
        channel = open_channel(target)
        stack.push_async_callback(channel.close)
        return RpcClient(channel, issuer=issuer, default_timeout=_CALL)

    manifests = _manifests(settings, stack)
    judges = EndpointJudges(
        objects=manifests.objects,
        built_in=_built_in(settings),
        secrets=SecretFiles(settings.secrets_dir, by_namespace=settings.manifests_cluster),
    )
    stack.push_async_callback(judges.close)
    runs = SessionRuns(
        rpc(settings.session_target),
        owner=f"{socket.gethostname()}-{os.getpid()}-{new_id()}",
        lease=settings.lease(),
    )
    budget = MinuteBudget(
        calls=settings.evaluation_judge_calls_per_minute,
        tokens=settings.evaluation_judge_tokens_per_minute,
        clock=clock,
    )
    teams = ManifestTeams(manifests.objects)
    evaluator = Evaluator(
        runs=runs,
        teams=teams,
        judges=judges,
        embedder=EmbeddingClient(rpc(settings.embedding_target)).of,
        memory=Memory(most=settings.evaluation_remembered_answers),
        budget=budget,
        report=Telemetry(),
    )
    worker = Worker(
        runs=runs,
        evaluator=evaluator,
        budget=budget,
        clock=clock,
        parallel=settings.evaluation_parallel_runs,
        times=Times(
            lease=settings.lease(),
            poll=timedelta(seconds=settings.evaluation_poll_s),
            max_age=timedelta(hours=settings.evaluation_max_age_h),
        ),
        waiting=WAITING.set,
    )
    asker = OrchestratorAsker(
        settings.orchestrator_target,
        connect=lambda target: RpcClient(open_channel(target), issuer=issuer, default_timeout=_CALL),
        stack=stack,
    )
    golden = GoldenRuns(asker=asker, evaluator=evaluator)
    golden_worker = GoldenWorker(
        sets=SessionGoldenSets(rpc(settings.session_target)),
        teams=teams,
        golden=golden,
        clock=clock,
        limits=settings.golden_limits(),
        seen=golden_sets_seen,
        ended=golden_set_ended,
    )
    servicer = EvaluationServicer(
        runs=runs,
        teams=teams,
        evaluator=evaluator,
        golden=golden,
        max_calls=settings.evaluation_max_golden_runs,
    )

    async def work() -> None:
        await manifests.ready()  # without them no team would have a judge
        async with asyncio.TaskGroup() as group:
            group.create_task(TEAMS.follow(teams.scored))
            group.create_task(JUDGES.follow(teams.judges))
            group.create_task(worker.work())
            group.create_task(golden_worker.work())

    return Assembly(
        services=[evaluation_service(servicer)], ready=manifests.ready, tasks=[manifests.watch, work]
    )


def _manifests(settings: Settings, stack: AsyncExitStack) -> Source:
    if settings.manifests_dir is not None:
        return folder_source(settings.manifests_dir)
    return cluster_source(stack, namespace=None)


def _built_in(settings: Settings) -> ModelEndpoint | None:
    if settings.builtin_chat_url is None:
        return None
    return ModelEndpoint(
        url=settings.builtin_chat_url,
        model=settings.builtin_chat_model,
        api_key=settings.builtin_chat_api_key.get_secret_value(),
    )

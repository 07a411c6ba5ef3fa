"""The process, put together: settings, adapters, core, servicer."""

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from datetime import timedelta

from manifests import Source, cluster_source, folder_source
from manifests.endpoints import ModelEndpoint, SecretFiles
from orchestrator.adapters.knowledge_client import EmbeddingClient, KnowledgeClient
from orchestrator.adapters.mcp_tools import McpTools
from orchestrator.adapters.memory_client import MemoryClient
from orchestrator.adapters.models import EndpointModels
from orchestrator.adapters.peers import PeerClient
from orchestrator.adapters.python_tools import PythonTools
from orchestrator.adapters.scores_client import ScoresClient
from orchestrator.adapters.session_client import SessionClient
from orchestrator.adapters.team_calls import TeamCalls, call_keys, filled_in
from orchestrator.adapters.tokenizer_files import TokenizerFiles
from orchestrator.adapters.tools import ToolSources
from orchestrator.core.awaited import AwaitedScores
from orchestrator.core.context.budget import Contexts, NoTokenizers
from orchestrator.core.metrics import TEAMS
from orchestrator.core.pool import Pool
from orchestrator.core.ports import LeaseTimes
from orchestrator.core.runs import Runs
from orchestrator.core.turn import World
from orchestrator.servicer import OrchestratorServicer, orchestrator_service
from orchestrator.settings import Settings
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.identity import IdentityKey, TokenIssuer, load_key
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.server import Assembly

_CALL = timedelta(seconds=10)


async def assemble(settings: Settings, stack: AsyncExitStack) -> Assembly:
    """Puts the process together; the stack closes what it opened."""
    key = load_key(settings.identity_key_file)
    issuer = TokenIssuer(key, service="orchestrator")

    def rpc(target: str) -> RpcClient:
        channel = open_channel(target)
        stack.push_async_callback(channel.close)
        return RpcClient(channel, issuer=issuer, default_timeout=_CALL)

    built_in = settings.builtin_chat_url and ModelEndpoint(
        url=settings.builtin_chat_url,
        api_key=settings.builtin_chat_api_key.get_secret_value(),
        model=settings.builtin_chat_model,
    )
    secrets = SecretFiles(settings.secrets_dir, own=key.tenant if settings.manifests_dir is None else "")
    models = EndpointModels(built_in=built_in or None, secrets=secrets)
    stack.push_async_callback(models.close)
    mcp = McpTools(secrets=secrets, clock=SystemClock())
    python = PythonTools(settings.python_tools_dir)
    stack.callback(python.close)
    manifests = _manifests(settings, key, stack)
    catalogue = manifests.objects
    calls = TeamCalls(
        filled_in(settings.teams_target or settings.address),
        keys=call_keys(key, settings.identity_key_file.parent),
        clock=SystemClock(),
    )
    stack.push_async_callback(calls.close)
    world = World(
        catalogue=catalogue,
        models=models,
        knowledge=KnowledgeClient(rpc(settings.retrieval_target)),
        embedder=EmbeddingClient(rpc(settings.embedding_target)),
        contexts=Contexts(
            built_in_tokens=settings.builtin_chat_context_tokens,
            tokenizers=TokenizerFiles(settings.tokenizers_dir) if settings.tokenizers_dir else NoTokenizers(),
        ),
        tools=ToolSources(mcp=mcp, python=python),
        memories=MemoryClient(rpc(settings.session_target)),
        calls=calls,
    )
    times = LeaseTimes(
        lease=timedelta(seconds=settings.lease_s), renew_every=timedelta(seconds=settings.renew_s)
    )
    store = SessionClient(
        rpc(settings.session_target),
        owner=f"{socket.gethostname()}-{os.getpid()}-{new_id()}",
        address=settings.address,
        lease=times.lease,
    )
    peers = PeerClient(issuer)
    stack.push_async_callback(peers.close)
    pool = Pool(tenant=key.tenant, team=settings.pool_team, known=catalogue)
    runs = Runs(
        world=world,
        store=store,
        peers=peers,
        clock=SystemClock(),
        address=settings.address,
        times=times,
        pool=pool,
    )
    scores = AwaitedScores(ScoresClient(rpc(settings.session_target)))
    servicer = OrchestratorServicer(runs=runs, catalogue=catalogue, tokens=PageTokens(key), scores=scores)

    def teams() -> list[str]:
        return [team.metadata.full_name for team in catalogue.every_team() if pool.serves(team)]

    def chat_models() -> list[str]:
        return [model.metadata.full_name for model in catalogue.every_model() if model.spec.type == "Chat"]

    async def count_from_zero() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(TEAMS.follow(teams))
            group.create_task(world.gates.labels.follow(chat_models))

    async def drain() -> None:
        scores.stop()
        await runs.drain(timedelta(seconds=settings.grace_s))

    return Assembly(
        services=[orchestrator_service(servicer)],
        ready=manifests.ready,
        tasks=[manifests.watch, mcp.work, runs.work, count_from_zero],
        drain=drain,
    )


def _manifests(settings: Settings, key: IdentityKey, stack: AsyncExitStack) -> Source:
    """The folder's, or those of the namespace that the key speaks for.

    Raises:
        ValueError: On a cluster the key must be one tenant's.
    """
    if settings.manifests_dir is not None:
        return folder_source(settings.manifests_dir, python_tools=settings.python_tools_dir is not None)
    if not key.tenant:
        raise ValueError(
            f"identity key file {settings.identity_key_file}: with AGENTTEAMS_MANIFESTS_CLUSTER it must "
            "be the key of one tenant, whose namespace is followed; this is the installation's"
        )
    return cluster_source(stack, namespace=key.tenant, secrets_dir=settings.secrets_dir)

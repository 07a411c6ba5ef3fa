"""The custom resources of AgentTeams, and the catalogue that reads them from a folder."""

from manifests.answer import AnswerFormat
from manifests.base import API_VERSION, DEFAULT_NAMESPACE, Metadata, ModelConfigRef
from manifests.catalogue import Catalogue
from manifests.evaluation import Evaluation, EvaluationThresholds
from manifests.fallbacks import fallback_chain
from manifests.guardrails import Guardrail, Guardrails
from manifests.json_schema import schema_problem
from manifests.knowledge import Chunking, KnowledgeBase, KnowledgeBaseSpec
from manifests.knowledge_retrieval import SearchModeName
from manifests.loader import KINDS, FileContent, LoadedObject, Resource, load_file, load_text
from manifests.model import ModelConfig, ModelConfigSpec
from manifests.nesting import MAX_TEAM_DEPTH
from manifests.objects import Objects
from manifests.problems import Problem
from manifests.references import check_references
from manifests.runtime import FRONT_SERVICE, SHARED_POOL, Runtime, pool_name
from manifests.secrets import HeaderFrom, SecretKeyRef
from manifests.session import SessionPolicy, SummaryPolicy, UserMemory
from manifests.sources import Source, cluster_source, folder_source
from manifests.team import (
    AgentTeam,
    AgentTeamSpec,
    EvidenceReuse,
    Knowledge,
    Limits,
    Member,
    Sharing,
)
from manifests.team_ref import TeamRef
from manifests.tools import Approvals, McpServer, PythonModule, ToolSource

__all__ = [
    "API_VERSION",
    "DEFAULT_NAMESPACE",
    "FRONT_SERVICE",
    "KINDS",
    "MAX_TEAM_DEPTH",
    "SHARED_POOL",
    "AgentTeam",
    "AgentTeamSpec",
    "AnswerFormat",
    "Approvals",
    "Catalogue",
    "Chunking",
    "Evaluation",
    "EvaluationThresholds",
    "EvidenceReuse",
    "FileContent",
    "Guardrail",
    "Guardrails",
    "HeaderFrom",
    "Knowledge",
    "KnowledgeBase",
    "KnowledgeBaseSpec",
    "Limits",
    "LoadedObject",
    "McpServer",
    "Member",
    "Metadata",
    "ModelConfig",
    "ModelConfigRef",
    "ModelConfigSpec",
    "Objects",
    "Problem",
    "PythonModule",
    "Resource",
    "Runtime",
    "SearchModeName",
    "SecretKeyRef",
    "SessionPolicy",
    "Sharing",
    "Source",
    "SummaryPolicy",
    "TeamRef",
    "ToolSource",
    "UserMemory",
    "check_references",
    "cluster_source",
    "fallback_chain",
    "folder_source",
    "load_file",
    "load_text",
    "pool_name",
    "schema_problem",
]

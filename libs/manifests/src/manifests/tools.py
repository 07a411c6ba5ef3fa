"""What agents may do besides searching: spec.tools and spec.approvals of an AgentTeam."""

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from manifests.base import (
    MODULE_PATTERN,
    PATH_PATTERN,
    TOOL_NAME_PATTERN,
    Model,
    Name,
    Violation,
    duplicates,
    refuse,
)
from manifests.cel import SET, Cel, Checked, Schema
from manifests.secrets import HEADER_RULES, HeaderFrom, header_violations


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
        parts = urlsplit("")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise PydanticCustomError(
            "url_credentials",
            "must not hold a user, a password, a query or a fragment; put keys into headersFrom",
        )
    if not valid:
        raise PydanticCustomError("url", "must be a URL such as https://tools.example.com/mcp")
    return url


_URL = Cel(
    "self.matches('^https?://[^/?#@]+(/[^?#@]*)?$')",
    "must be a URL such as https://tools.example.com/mcp, without user, password, query or fragment; put "
    "keys into headersFrom",
)
ToolName = Annotated[str, StringConstraints(pattern=TOOL_NAME_PATTERN), Schema((("maxLength", 128),))]


class ServiceRef(Model):
    """A Service of the same namespace."""

    name: Name = Field(description="The Service's name.")
    port: int = Field(ge=1, le=65_535, description="Its port.")
    path: Annotated[str, StringConstraints(pattern=PATH_PATTERN, max_length=1024)] = Field(
        default="/mcp", description="Path of the MCP endpoint."
    )


class McpServer(Model):
    """A server that speaks the Model Context Protocol."""

    cel: ClassVar = (
        Cel(
            "has(self.url) != has(self.serviceRef)",
            "exactly one of url and serviceRef is required; set one and remove the other",
            ".url",
        ),
        Cel(
            "!has(self.requireApproval) || self.requireApproval.all(t, t in self.allowedTools)",
            "not all are in allowedTools; add them there, or remove them here",
            ".requireApproval",
        ),
        *HEADER_RULES,
    )

    url: Annotated[str, StringConstraints(max_length=2048), Checked(_check_url, _URL)] | None = Field(
        default=None, description="Its endpoint. Exactly one of url and serviceRef."
    )
    service_ref: ServiceRef | None = Field(
        default=None, description="The Service that it is behind. Exactly one of url and serviceRef."
    )
    transport: Literal["StreamableHTTP", "SSE"] = Field(
        default="StreamableHTTP", description="SSE only for servers that do not speak the newer one."
    )
    headers_from: tuple[HeaderFrom, ...] = Field(
        default=(), max_length=16, description="Headers whose values are secrets."
    )
    allowed_tools: tuple[ToolName, ...] = Field(
        min_length=1,
        max_length=64,
        description="The server's tools that agents may see and call.",
        json_schema_extra={**SET},
    )
    require_approval: tuple[ToolName, ...] = Field(
        default=(),
        max_length=64,
        description="Those of allowedTools that are not called before a person has allowed the call.",
        json_schema_extra={**SET},
    )
    timeout_seconds: int = Field(
        default=30, ge=1, le=3600, description="Longest wait for one call, retries included."
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        if (self.url is None) == (self.service_ref is None):
            yield Violation(
                ("url",), "exactly one of url and serviceRef is required", "set one and remove the other"
            )
        yield from header_violations(self.headers_from, "headersFrom")
        yield from _twice(self.allowed_tools, "allowedTools")
        yield from _twice(self.require_approval, "requireApproval")
        for index, name in enumerate(self.require_approval):
            if name not in self.allowed_tools:
                yield Violation(
                    ("requireApproval", index),
                    f'"{name}" is not in allowedTools, which has {", ".join(self.allowed_tools)}',
                    "add it there, or remove it here",
                )


class PythonModule(Model):
    """A module whose typed functions are tools. Only where the orchestrator allows it: local mode."""

    module: Annotated[str, StringConstraints(pattern=MODULE_PATTERN, max_length=255)] = Field(
        description="Importable name, such as shop_tools; the functions that it defines and that do not "
        "begin with _ are the tools."
    )
    timeout_seconds: int = Field(default=30, ge=1, le=3600, description="Longest wait for one call.")


class ToolSource(Model):
    """One source of tools. Exactly one of mcp, python and builtin."""

    cel: ClassVar = (
        Cel(
            "[has(self.mcp), has(self.python), has(self.builtin)].filter(x, x).size() == 1",
            "exactly one of mcp, python and builtin is required; keep one",
        ),
    )

    name: Name = Field(description="What members call it; unique within the team.")
    mcp: McpServer | None = Field(default=None, description="Tools of an MCP server.")
    python: PythonModule | None = Field(
        default=None, description="Functions of a Python module. Only in local mode."
    )
    builtin: Literal["AskUser"] | None = Field(
        default=None,
        description="AskUser: asks the user a question, and waits for the answer. (Memories of the user are "
        "session.userMemory.)",
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        given = [
            field
            for field, value in (("mcp", self.mcp), ("python", self.python), ("builtin", self.builtin))
            if value is not None
        ]
        if len(given) != 1:
            have = " and ".join(given) or "none"
            yield Violation(
                (), f"exactly one of mcp, python and builtin is required, and there is {have}", "keep one"
            )


class Approvals(Model):
    """Who decides about tool calls that need approval, and how long a run waits for people."""

    allowed_users: tuple[Annotated[str, StringConstraints(min_length=1, max_length=253)], ...] = Field(
        default=(),
        max_length=64,
        description="Users who may allow or refuse a call. Default: only the user of the run.",
    )
    expire_after_hours: int = Field(
        default=168,
        ge=1,
        le=8760,
        description="After so long a call counts as refused, and a question as not answered.",
    )


def tool_violations(sources: Sequence[ToolSource], members: Sequence[Sequence[str]]) -> Iterator[Violation]:
    """What is wrong between spec.tools and what each member names of them."""
    known = [source.name for source in sources]
    yield from duplicates(known, "tools")
    for index, names in enumerate(members):
        for position, name in enumerate(names):
            at = ("members", index, "tools", position)
            if name not in known:
                have = ", ".join(known) or "nothing yet"
                yield Violation(
                    at,
                    f'"{name}" is not in spec.tools, which has {have}',
                    "add it there, or name one that is there",
                )
            elif name in names[:position]:
                yield Violation(at, f'"{name}" is listed twice', "remove one")


def _twice(names: Sequence[str], field: str) -> Iterator[Violation]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Violation((field, index), f'"{name}" is listed twice', "remove one")

"""Who calls: API keys of a file, or the one user of this machine."""

import hashlib
import hmac
import re
from pathlib import Path
from typing import Protocol

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import Headers

from gateway.core.errors import ApiError
from gateway.settings import is_loopback
from servicekit.context import FOREIGN_USER, Caller

LOCAL_CALLER = Caller(tenant="default", user="local")
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^:]*)(:\d+)?")


class Authenticator(Protocol):
    """Turns a request's headers into a caller."""

    def caller(self, headers: Headers) -> Caller:
        """Who calls. Raises: ApiError (401, 403)."""
        ...


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")
    tenant: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    user: str = Field(min_length=1, max_length=200)

    @field_validator("user")
    @classmethod
    def _own(cls, user: str) -> str:
        if user.startswith(FOREIGN_USER):
            raise ValueError(f"must not begin with {FOREIGN_USER}, as users who call from other tenants do")
        return user


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[_Key] = Field(min_length=1, max_length=1000)

    @field_validator("keys")
    @classmethod
    def _unique(cls, keys: list[_Key]) -> list[_Key]:
        seen: set[str] = set()
        for index, key in enumerate(keys):
            if key.sha256.lower() in seen:
                raise ValueError(f"entry {index} repeats a key: one key is one caller")
            seen.add(key.sha256.lower())
        return keys


class ApiKeys:
    """Callers by `Authorization: Bearer <key>`; only digests of keys are kept."""

    def __init__(self, entries: list[tuple[bytes, Caller]]) -> None:
        self._entries = entries

    def caller(self, headers: Headers) -> Caller:
        """Who calls. Raises: ApiError (401)."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("No API key: send it as `Authorization: Bearer <key>`.")
        digest = hashlib.sha256(key.strip().encode()).digest()
        found: Caller | None = None
        # All entries, in constant time each: how long it takes says nothing about a key.
        for expected, caller in self._entries:
            if hmac.compare_digest(digest, expected):
                found = caller
        if found is None:
            raise _unauthorized("The API key is not known here.")
        return found


class LocalUser:
    """Everybody on this machine is one user, and no web page in its browser is.

    A page of another site can send requests to loopback, by a name that it
    lets point there; so the Host header must be this machine's own.
    """

    def caller(self, headers: Headers) -> Caller:
        """Who calls. Raises: ApiError (403)."""
        host = headers.get("host", "")
        match = _HOST.fullmatch(host)
        if match is None or not is_loopback(match["name"]):
            raise ApiError(
                403,
                f"Host {host[:80]!r} is not this machine: without API keys only loopback is served.",
                code="host_not_allowed",
                param="Host",
            )
        return LOCAL_CALLER


def load_keys(path: Path) -> ApiKeys:
    """Reads a file of keys.

    Raises:
        ValueError: It cannot be read or an entry is wrong; names the entry, never a key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"API keys file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"API keys file {path}: neither YAML nor JSON") from error
    try:
        file = _KeyFile.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise ValueError(f"API keys file {path}: {where}: {first['msg']}") from error
    return ApiKeys([(bytes.fromhex(key.sha256), Caller(key.tenant, key.user)) for key in file.keys])


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", param="Authorization")

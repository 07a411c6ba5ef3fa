"""Tokens between services: who is asking, signed with a key that they share.

The gateway (or an ingress) authenticates people and issues a token for them;
every service verifies it and takes tenant and user from nowhere else. HS256
(RFC 7519), with a key of each tenant that is derived from one installation
key: services that serve all tenants hold the latter; what runs in a tenant's
own namespace holds only that tenant's, and can speak for nobody else
(docs/adr/0011-trust-in-a-cluster.md).
"""

import hashlib
import hmac
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jwt

from servicekit.context import Caller
from servicekit.errors import PermissionDenied, Unauthenticated

ALGORITHM = "HS256"
_AUDIENCE = "agentteams"
_LIFETIME_S = 600
_RENEW_S = 120  # a token handed out lives at least this long
_CACHE_SIZE = 4096
_TENANT_KEY = b"agentteams-tenant-key"
_MIN_BYTES = 32


@dataclass(frozen=True, slots=True)
class IdentityKey:
    """What tokens are signed with.

    Attributes:
        secret: At least 32 bytes.
        tenant: The only tenant that it speaks for; empty: the installation's key, for all.
    """

    secret: bytes
    tenant: str = ""

    def of_tenant(self, tenant: str) -> "IdentityKey":
        """The tenant's own key. "" is nobody's tenant: services that act on nobody's behalf.

        Raises:
            PermissionDenied: This is another tenant's key.
        """
        if self.tenant == tenant:
            return self if tenant else IdentityKey(self._derived(""))
        if self.tenant:
            raise PermissionDenied(
                f"the key of this process is that of tenant {self.tenant}; it cannot speak for {tenant!r}",
                reason="PERMISSION_DENIED",
                metadata={"tenant": tenant, "key_tenant": self.tenant},
            )
        return IdentityKey(self._derived(tenant), tenant)

    def to_file(self) -> bytes:
        """What `load_key` reads."""
        if not self.tenant:
            return self.secret
        return b" ".join((_TENANT_KEY, self.tenant.encode(), self.secret.hex().encode()))

    def _derived(self, tenant: str) -> bytes:
        return hmac.digest(self.secret, b"agentteams tenant\0" + tenant.encode(), hashlib.sha256)


def load_key(path: Path) -> IdentityKey:
    """Reads the installation's key, or that of one tenant.

    Raises:
        ValueError: The file is missing, damaged, or holds fewer than 32 bytes.
    """
    try:
        content = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"identity key file {path}: {error.strerror}") from error
    if content.startswith(_TENANT_KEY + b" "):
        try:
            _, tenant, secret = content.decode().split(" ")
            key = IdentityKey(bytes.fromhex(secret), tenant)
        except ValueError:
            raise ValueError(f"identity key file {path}: a tenant's key, but damaged") from None
    else:
        key = IdentityKey(content)
    if len(key.secret) < _MIN_BYTES:
        raise ValueError(f"identity key file {path}: {len(key.secret)} bytes, at least 32 are needed")
    return key


class Issuer(Protocol):
    """Makes the tokens of calls."""

    def token(self, caller: Caller) -> str:
        """A token for the caller. Raises: ServiceError."""
        ...


class CachingIssuer(ABC):
    """Makes tokens; the same caller gets the same token until it is nearly over.

    Args:
        service: Who makes the calls.
    """

    def __init__(self, *, service: str) -> None:
        self._service = service
        self._cache: OrderedDict[Caller, tuple[float, str]] = OrderedDict()

    def token(self, caller: Caller) -> str:
        """A token for the caller, good for two minutes at least.

        Raises:
            PermissionDenied: The key of this process is not for that caller.
            FailedPrecondition: A call of another tenant's team may not go that way.
        """
        now = time.time()
        cached = self._cache.get(caller)
        if cached is not None and cached[0] - now > _RENEW_S:
            return cached[1]
        expiry = now + _LIFETIME_S
        claims, secret = self._claims(caller)
        whole = {"iss": self._service, "exp": int(expiry), **claims}
        token = jwt.encode(whole, secret, algorithm=ALGORITHM)
        self._cache[caller] = (expiry, token)
        if len(self._cache) > _CACHE_SIZE:
            self._cache.popitem(last=False)
        return token

    @abstractmethod
    def _claims(self, caller: Caller) -> tuple[dict[str, str], bytes]:
        """What the token says, `aud` included, and what it is signed with; as `token` raises."""


class TokenIssuer(CachingIssuer):
    """Makes the tokens of calls within a tenant."""

    def __init__(self, key: IdentityKey, *, service: str) -> None:
        super().__init__(service=service)
        self._key = key

    def _claims(self, caller: Caller) -> tuple[dict[str, str], bytes]:
        claims = {"aud": _AUDIENCE, "tenant": caller.tenant, "sub": caller.user}
        if caller.service:
            claims["service"] = caller.service
        return claims, self._key.of_tenant(caller.tenant).secret


class TokenVerifier:
    """Reads tokens; remembers those that it has verified until they expire."""

    def __init__(self, key: IdentityKey) -> None:
        self._key = key
        self._cache: OrderedDict[str, tuple[float, Caller]] = OrderedDict()

    def verify(self, token: str) -> Caller:
        """Who the token stands for.

        Raises:
            Unauthenticated: It is forged, expired, or for somebody else.
        """
        cached = self._cache.get(token)
        if cached is not None and cached[0] > time.time():
            return cached[1]
        expiry, caller = self._read(token)
        self._cache[token] = (expiry, caller)
        if len(self._cache) > _CACHE_SIZE:
            self._cache.popitem(last=False)
        return caller

    def _read(self, token: str) -> tuple[float, Caller]:
        """When it expires, and who it stands for. Raises: Unauthenticated."""
        try:
            # Not verified yet, and used for nothing but to choose the key: a wrong one fails the signature.
            unverified = jwt.decode(token, options={"verify_signature": False})
            claims = jwt.decode(
                token,
                self._key.of_tenant(str(unverified.get("tenant", ""))).secret,
                algorithms=[ALGORITHM],
                audience=_AUDIENCE,
                options={"require": ["exp", "tenant", "sub"]},
            )
        except (jwt.PyJWTError, PermissionDenied) as error:
            raise Unauthenticated(f"token refused: {error}", reason="UNAUTHENTICATED") from error
        caller = Caller(str(claims["tenant"]), str(claims["sub"]), str(claims.get("service", "")))
        return float(claims["exp"]), caller

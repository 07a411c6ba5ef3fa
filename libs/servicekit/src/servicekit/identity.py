"""Tokens between services: who is asking, signed with a key that they share.

The gateway (or an ingress) authenticates people and issues a token for them;
every service verifies it and takes tenant and user from nowhere else. HS256
with one shared key: services are one trust domain, and the key is mounted as
a file. RFC 7519.
"""

import time
from collections import OrderedDict
from pathlib import Path

import jwt

from servicekit.context import Caller
from servicekit.errors import Unauthenticated

_ALGORITHM = "HS256"
_AUDIENCE = "agentteams"
_LIFETIME_S = 600
_RENEW_S = 120  # a token handed out lives at least this long
_CACHE_SIZE = 4096


def load_key(path: Path) -> bytes:
    """Reads the shared key.

    Raises:
        ValueError: The file is missing or holds fewer than 32 bytes.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"identity key file {path}: {error.strerror}") from error
    if len(key) < 32:
        raise ValueError(f"identity key file {path}: {len(key)} bytes, at least 32 are needed")
    return key


class TokenIssuer:
    """Makes tokens; the same caller gets the same token until it is nearly over."""

    def __init__(self, key: bytes, *, service: str) -> None:
        self._key = key
        self._service = service
        self._cache: OrderedDict[Caller, tuple[float, str]] = OrderedDict()

    def token(self, caller: Caller) -> str:
        """A token for the caller, good for two minutes at least."""
        now = time.time()
        cached = self._cache.get(caller)
        if cached is not None and cached[0] - now > _RENEW_S:
            return cached[1]
        expiry = now + _LIFETIME_S
        claims = {
            "iss": self._service,
            "aud": _AUDIENCE,
            "exp": int(expiry),
            "tenant": caller.tenant,
            "sub": caller.user,
        }
        if caller.service:
            claims["service"] = caller.service
        token = jwt.encode(claims, self._key, algorithm=_ALGORITHM)
        self._cache[caller] = (expiry, token)
        if len(self._cache) > _CACHE_SIZE:
            self._cache.popitem(last=False)
        return token


class TokenVerifier:
    """Reads tokens; remembers those that it has verified until they expire."""

    def __init__(self, key: bytes) -> None:
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
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                options={"require": ["exp", "tenant", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"token refused: {error}", reason="UNAUTHENTICATED") from error
        caller = Caller(str(claims["tenant"]), str(claims["sub"]), str(claims.get("service", "")))
        self._cache[token] = (float(claims["exp"]), caller)
        if len(self._cache) > _CACHE_SIZE:
            self._cache.popitem(last=False)
        return caller

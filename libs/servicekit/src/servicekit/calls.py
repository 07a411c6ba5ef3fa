"""Calls of teams of other tenants: keys and tokens that are good for nothing else (docs/adr, 0015).

A tenant's orchestrators can verify the tokens of their own tenant only. Who calls them from another one
signs with a key that is derived from theirs, for calls of that one caller's tenant: its holder can ask their
teams, and can speak for nobody, neither for the owner at other services nor for other callers.
"""

import hashlib
import hmac
from dataclasses import dataclass

import jwt

from servicekit.context import MAX_CALLED_THROUGH, Caller
from servicekit.errors import FailedPrecondition, PermissionDenied, Unauthenticated
from servicekit.identity import ALGORITHM, CachingIssuer, IdentityKey, Issuer, TokenIssuer, TokenVerifier

AUDIENCE = "agentteams-call"
"""Of tokens of calls: what serves nobody's calls refuses them."""

_CALL_KEY = b"agentteams-call-key"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallKey:
    """What `home` signs its calls of `owner`'s teams with; the owner derives it from its own key."""

    owner: str
    home: str
    secret: bytes

    @classmethod
    def of(cls, key: IdentityKey, *, owner: str, home: str) -> "CallKey":
        """From the owner's key, or the installation's.

        Raises:
            PermissionDenied: The key is another tenant's.
        """
        secret = hmac.digest(
            key.of_tenant(owner).secret, b"agentteams call\0" + home.encode(), hashlib.sha256
        )
        return cls(owner=owner, home=home, secret=secret)

    def to_file(self) -> bytes:
        """What `read` reads."""
        return b" ".join((_CALL_KEY, self.owner.encode(), self.home.encode(), self.secret.hex().encode()))

    @classmethod
    def read(cls, content: bytes) -> "CallKey":
        """Raises: ValueError, without the content."""
        try:
            head, owner, home, secret = content.strip().split(b" ")
            if head != _CALL_KEY:
                raise ValueError
            return cls(owner=owner.decode(), home=home.decode(), secret=bytes.fromhex(secret.decode()))
        except ValueError:
            raise ValueError("not a key for calls, or damaged") from None


class CallIssuer(CachingIssuer):
    """Makes the tokens of calls of one owner's teams, for the callers of other tenants.

    Args:
        key: The installation's, or the key for calls that the caller's tenant has.
        owner: The tenant whose teams are called.
        service: Who makes the calls.
    """

    def __init__(self, key: IdentityKey | CallKey, *, owner: str, service: str) -> None:
        super().__init__(service=service)
        self._key = key
        self._owner = owner

    def _claims(self, caller: Caller) -> tuple[dict[str, str], bytes]:
        check_way(caller, self._owner)
        claims = {"aud": AUDIENCE, "tenant": self._owner, "home": caller.tenant, "sub": caller.user}
        return claims, self._secret(caller.tenant)

    def _secret(self, home: str) -> bytes:
        if isinstance(self._key, IdentityKey):
            return CallKey.of(self._key, owner=self._owner, home=home).secret
        if (self._key.owner, self._key.home) != (self._owner, home):
            raise PermissionDenied(
                f"the key of this process is for calls of namespace {self._key.owner} from "
                f"{self._key.home}, not of {self._owner} from {home}",
                reason="PERMISSION_DENIED",
                metadata={"owner": self._owner, "home": home},
            )
        return self._key.secret


def issuer_for(key: IdentityKey, *, owner: str, service: str) -> Issuer:
    """Of calls of that owner's teams; without an owner, of all calls within a tenant."""
    return CallIssuer(key, owner=owner, service=service) if owner else TokenIssuer(key, service=service)


def check_way(caller: Caller, owner: str) -> None:
    """Raises FailedPrecondition, TEAM_NOT_READY: such a call would come back, or go too far."""
    way = [*caller.called_through, caller.tenant]
    shown = " > ".join([*way, owner])
    if owner in way:
        problem = f"a call never comes back to a namespace that it came from: {shown}"
    elif len(way) > MAX_CALLED_THROUGH:
        problem = f"a call leads through at most {MAX_CALLED_THROUGH + 1} namespaces: {shown}"
    else:
        return
    raise FailedPrecondition(problem, reason="TEAM_NOT_READY", metadata={"namespace": owner})


class CallVerifier(TokenVerifier):
    """As TokenVerifier, and reads the tokens of calls from other tenants.

    Who calls from another tenant is a user of this one from here on, whose name says where it comes from
    (`Caller.home`): its sessions, runs and memories are nobody else's.
    """

    def _read(self, token: str) -> tuple[float, Caller]:
        try:
            return super()._read(token)
        except Unauthenticated as refused:
            try:
                return self._call(token)
            except (jwt.PyJWTError, PermissionDenied):
                raise refused from None

    def _call(self, token: str) -> tuple[float, Caller]:
        # Not verified yet, and used for nothing but to choose the key: a wrong one fails the signature.
        unverified = jwt.decode(token, options={"verify_signature": False})
        owner, home = str(unverified.get("tenant", "")), str(unverified.get("home", ""))
        claims = jwt.decode(
            token,
            CallKey.of(self._key, owner=owner, home=home).secret,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            options={"require": ["exp", "tenant", "home", "sub"]},
        )
        if not owner or not home or owner == home:
            raise PermissionDenied("a call is from another tenant", reason="PERMISSION_DENIED")
        return float(claims["exp"]), Caller.of_call(owner, home=home, user=str(claims["sub"]))

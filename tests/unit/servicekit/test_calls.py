"""Keys and tokens of calls across tenants."""

import jwt
import pytest

from servicekit.calls import CallIssuer, CallKey, CallVerifier, issuer_for
from servicekit.context import Caller
from servicekit.errors import FailedPrecondition, PermissionDenied, Unauthenticated
from servicekit.identity import TokenIssuer, TokenVerifier
from servicekit.testing import TEST_KEY as KEY

ANN = Caller("team-b", "ann")
OWN = KEY.of_tenant("team-a")


def test_a_call_is_verified_with_the_owners_key_alone_and_says_where_it_is_from() -> None:
    token = issuer_for(KEY, owner="team-a", service="gateway").token(ANN)
    for key in (KEY, OWN):
        verifier = CallVerifier(key)
        for _ in range(2):
            caller = verifier.verify(token)
            assert (caller.tenant, caller.home, caller.service) == ("team-a", "team-b", "")
            assert caller.user == "tenant:team-b/ann"
    # It opens nothing else: not the owner's services, not another tenant's teams.
    for other in (TokenVerifier(KEY), TokenVerifier(OWN), CallVerifier(KEY.of_tenant("team-c"))):
        with pytest.raises(Unauthenticated):
            other.verify(token)


def test_tokens_of_ones_own_tenant_are_read_as_ever() -> None:
    caller = Caller("team-a", "ann", "orchestrator")
    token = TokenIssuer(OWN, service="orchestrator").token(caller)
    assert CallVerifier(OWN).verify(token) == caller
    assert caller.home == ""
    with pytest.raises(Unauthenticated):
        CallVerifier(OWN).verify(TokenIssuer(KEY, service="gateway").token(ANN))


def test_a_key_for_calls_speaks_for_one_caller_to_one_owner() -> None:
    key = CallKey.of(OWN, owner="team-a", home="team-b")
    assert key == CallKey.of(KEY, owner="team-a", home="team-b") == CallKey.read(key.to_file())
    token = CallIssuer(key, owner="team-a", service="orchestrator").token(ANN)
    assert CallVerifier(OWN).verify(token).home == "team-b"
    with pytest.raises(PermissionDenied):
        CallIssuer(key, owner="team-a", service="orchestrator").token(Caller("team-c", "eve"))
    with pytest.raises(PermissionDenied):
        CallIssuer(key, owner="team-c", service="orchestrator").token(ANN)
    claims = {
        "aud": "agentteams-call",
        "exp": 4_000_000_000,
        "tenant": "team-a",
        "home": "team-c",
        "sub": "eve",
    }
    for forged in (claims, claims | {"tenant": "team-d", "home": "team-b"}, claims | {"aud": "agentteams"}):
        with pytest.raises(Unauthenticated):
            CallVerifier(KEY).verify(jwt.encode(forged, key.secret, algorithm="HS256"))
    with pytest.raises(PermissionDenied):  # team-b cannot make keys of team-a
        CallKey.of(KEY.of_tenant("team-b"), owner="team-a", home="team-b")


@pytest.mark.parametrize(
    "content", [b"", b"agentteams-call-key a b", b"agentteams-call-key a b zz", b"x a b 00"]
)
def test_a_damaged_key_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        CallKey.read(content)


def test_a_call_goes_on_but_never_back_and_not_for_ever() -> None:
    def called(caller: Caller, owner: str) -> Caller:
        return CallVerifier(KEY).verify(CallIssuer(KEY, owner=owner, service="orchestrator").token(caller))

    at_c = called(called(ANN, "team-a"), "team-c")
    assert at_c.called_through == ("team-b", "team-a")
    assert (at_c.home, at_c.user) == ("team-a", "tenant:team-a/tenant:team-b/ann")
    for owner in ("team-a", "team-b", "team-c"):
        with pytest.raises(FailedPrecondition, match="team-b > team-a > team-c > "):
            called(at_c, owner)
    at_d = called(at_c, "team-d")
    with pytest.raises(FailedPrecondition, match="at most 4 namespaces"):
        called(at_d, "team-e")

"""Ids, page tokens, tokens, errors."""

import time
from pathlib import Path

import jwt
import pytest

from servicekit.context import Caller
from servicekit.errors import (
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    error_from_status,
    status_from_error,
)
from servicekit.identity import IdentityKey, TokenIssuer, TokenVerifier, load_key
from servicekit.ids import is_uuid4, new_id
from servicekit.paging import PageTokens, page_size

KEY = IdentityKey(b"0123456789abcdef0123456789abcdef")


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    first = new_id()
    time.sleep(0.002)
    later = [new_id() for _ in range(1000)]
    assert len({first, *later}) == 1001
    assert all(first < other for other in later)
    assert {len(other) for other in later} == {26}


def test_uuid4() -> None:
    assert is_uuid4("3f0e8a52-7a53-4c39-9d5b-2f6f6a7f6d10")
    assert not is_uuid4("3f0e8a52-7a53-1c39-9d5b-2f6f6a7f6d10")  # version 1
    assert not is_uuid4("")


def test_page_tokens_are_bound_and_signed() -> None:
    tokens = PageTokens(KEY)
    token = tokens.encode(("list", "team-a"), "cursor-7")
    assert tokens.decode(("list", "team-a"), token) == "cursor-7"
    for bound, bad in [
        (("list", "team-b"), token),
        (("list", "team-a"), token[:-2] + "xx"),
        (("list", "team-a"), "%%%"),
        (("list", "team-a"), ""),
        (("listteam-a",), token),
    ]:
        with pytest.raises(InvalidArgument, match="page_token"):
            tokens.decode(bound, bad)


def test_page_size_is_coerced_above_and_refused_below() -> None:
    assert page_size(0, default=50, maximum=200) == 50
    assert page_size(1000, default=50, maximum=200) == 200
    with pytest.raises(InvalidArgument, match="page_size"):
        page_size(-1, default=50, maximum=200)


def test_tokens_carry_the_caller_and_expire_with_their_key() -> None:
    caller = Caller("team-a", "ann", "orchestrator")
    issuer = TokenIssuer(KEY, service="gateway")
    token = issuer.token(caller)
    assert issuer.token(caller) is token
    assert TokenVerifier(KEY).verify(token) == caller
    with pytest.raises(Unauthenticated):
        TokenVerifier(IdentityKey(KEY.secret[::-1])).verify(token)
    head, body, signature = token.split(".")
    with pytest.raises(Unauthenticated):
        TokenVerifier(KEY).verify(f"{head}.{body[:-4]}AAAA.{signature}")


def test_a_tenants_key_speaks_for_its_tenant_only(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY.of_tenant("team-a").to_file())
    own = load_key(tmp_path / "key")
    assert own == KEY.of_tenant("team-a")
    caller = Caller("team-a", "ann", "orchestrator")
    token = TokenIssuer(own, service="orchestrator").token(caller)
    # The installation's key verifies what the tenant's has signed, and the other way round.
    assert TokenVerifier(KEY).verify(token) == caller
    assert TokenVerifier(own).verify(TokenIssuer(KEY, service="gateway").token(caller)) == caller
    for tenant in ("team-b", ""):
        with pytest.raises(PermissionDenied, match="team-a"):
            TokenIssuer(own, service="orchestrator").token(Caller(tenant, "ann"))
        foreign = TokenIssuer(KEY, service="gateway").token(Caller(tenant, "ann"))
        with pytest.raises(Unauthenticated):
            TokenVerifier(own).verify(foreign)


def test_a_tenants_key_forges_no_other_tenants_token() -> None:
    own = KEY.of_tenant("team-a").secret
    claims = {"aud": "agentteams", "exp": 4_000_000_000, "tenant": "team-b", "sub": "bob"}
    for tenant in ("team-b", ""):
        with pytest.raises(Unauthenticated):
            TokenVerifier(KEY).verify(jwt.encode(claims | {"tenant": tenant}, own, algorithm="HS256"))
    with pytest.raises(Unauthenticated):
        TokenVerifier(KEY).verify(jwt.encode(claims, "", algorithm="none"))


def test_a_short_or_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        load_key(tmp_path / "absent")
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(ValueError, match="3 bytes"):
        load_key(tmp_path / "short")
    (tmp_path / "damaged").write_bytes(KEY.of_tenant("team-a").to_file()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        load_key(tmp_path / "damaged")


def test_unexpected_errors_show_nothing() -> None:
    error = error_from_status(status_from_error(KeyError("password")))
    assert (error.reason, error.message) == ("INTERNAL", "internal error")

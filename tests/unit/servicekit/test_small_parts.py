"""Ids, page tokens, tokens, errors."""

import time
from pathlib import Path

import pytest

from servicekit.context import Caller
from servicekit.errors import InvalidArgument, Unauthenticated, error_from_status, status_from_error
from servicekit.identity import TokenIssuer, TokenVerifier, load_key
from servicekit.ids import is_uuid4, new_id
from servicekit.paging import PageTokens, page_size

KEY = b"0123456789abcdef0123456789abcdef"


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
        TokenVerifier(KEY[::-1]).verify(token)
    head, body, signature = token.split(".")
    with pytest.raises(Unauthenticated):
        TokenVerifier(KEY).verify(f"{head}.{body[:-4]}AAAA.{signature}")


def test_a_short_or_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        load_key(tmp_path / "absent")
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(ValueError, match="3 bytes"):
        load_key(tmp_path / "short")


def test_unexpected_errors_show_nothing() -> None:
    error = error_from_status(status_from_error(KeyError("password")))
    assert (error.reason, error.message) == ("INTERNAL", "internal error")

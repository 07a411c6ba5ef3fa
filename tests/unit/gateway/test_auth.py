"""Keys, and who may be served without them."""

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError
from starlette.datastructures import Headers

from gateway.auth import LOCAL_CALLER, LocalUser, load_keys
from gateway.core.errors import ApiError
from gateway.settings import Settings
from servicekit.context import Caller

DIGEST = hashlib.sha256(b"secret").hexdigest()
ENTRY = f"{{sha256: {DIGEST}, tenant: a, user: u}}"


def write(folder: Path, text: str) -> Path:
    path = folder / "keys.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "form",
    [
        "keys: [{{sha256: {0}, tenant: a, user: u}}]",
        '{{"keys": [{{"sha256": "{0}", "tenant": "a", "user": "u"}}]}}',
    ],
)
def test_keys_are_found_by_digest(tmp_path: Path, form: str) -> None:
    keys = load_keys(write(tmp_path, form.format(DIGEST)))
    assert keys.caller(Headers({"authorization": "Bearer secret"})) == Caller("a", "u")
    for wrong in ("Bearer Secret", "Bearer", "Basic secret", DIGEST, f"Bearer {DIGEST}", ""):
        with pytest.raises(ApiError) as caught:
            keys.caller(Headers({"authorization": wrong}))
        assert caught.value.status == 401


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("keys: [", "neither YAML nor JSON"),
        ("keys: []", "keys"),
        ("- a", "file"),
        ("keys: [{sha256: abc, tenant: a, user: u}]", "keys.0.sha256"),
        (f"keys: [{{sha256: {DIGEST}, tenant: A B, user: u}}]", "keys.0.tenant"),
        (f"keys: [{{sha256: {DIGEST}, tenant: a}}]", "keys.0.user"),
        (f"keys: [{{sha256: {DIGEST}, tenant: a, user: u, key: secret}}]", "keys.0.key"),
        (f"keys: [{ENTRY}, {ENTRY}]", "entry 1"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_without_its_keys(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ValueError, match=r"keys\.yaml") as caught:
        load_keys(write(tmp_path, text))
    assert named in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.yaml"):
        load_keys(tmp_path / "none.yaml")


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:8080", "127.0.0.9"])
def test_this_machine_is_the_local_user(host: str) -> None:
    assert LocalUser().caller(Headers({"host": host})) == LOCAL_CALLER


@pytest.mark.parametrize("host", ["evil.example", "", "localhost.evil.example:80", "10.0.0.1", "127.0.0.1.x"])
def test_other_names_of_this_machine_are_refused(host: str) -> None:
    with pytest.raises(ApiError) as caught:
        LocalUser().caller(Headers({"host": host}))
    assert caught.value.status == 403


def test_without_keys_only_loopback_is_bound(tmp_path: Path) -> None:
    def settings(host: str, keys: Path | None = None) -> Settings:
        return Settings(host=host, identity_key_file=tmp_path / "k", api_keys_file=keys)

    for host in ("0.0.0.0", "192.0.2.1", "::", "example.com"):
        with pytest.raises(ValidationError, match="AGENTTEAMS_API_KEYS_FILE"):
            settings(host)
        assert settings(host, tmp_path / "keys.yaml").host == host
    for host in ("127.0.0.1", "::1", "localhost"):
        assert settings(host).host == host

"""API keys from files: local mode, and mounted Kubernetes Secrets."""

from __future__ import annotations

import asyncio
from pathlib import Path

from embedding.core.ports import SecretRef
from servicekit.errors import FailedPrecondition

_MAX_BYTES = 64 * 1024


class FileSecrets:
    """`Secrets` in files.

    Args:
        folder: None: there are no secrets.
        by_namespace: Files are `<namespace>__<name>__<key>`, as the operator writes those of all tenants into
            one Secret; no namespace and no name has an underscore. Otherwise `<name>/<key>`.
    """

    def __init__(self, folder: Path | None, *, by_namespace: bool = False) -> None:
        self._folder = folder
        self._by_namespace = by_namespace

    async def read(self, namespace: str, ref: SecretRef, *, lines: bool = False) -> str:
        """The file's text without white space around it. See Secrets."""
        if self._folder is None:
            raise _missing(namespace, ref, "this installation has no secrets folder (AGENTTEAMS_SECRETS_DIR)")
        inside = f"{namespace}__{ref.name}__{ref.key}" if self._by_namespace else f"{ref.name}/{ref.key}"
        return await asyncio.to_thread(_read, self._folder, inside, namespace, ref, lines)


def _read(folder: Path, inside: str, namespace: str, ref: SecretRef, lines: bool) -> str:
    path = folder / inside
    if not path.resolve().is_relative_to(folder.resolve()):
        raise _missing(namespace, ref, "its name leads out of the secrets folder")
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode().strip()
    except FileNotFoundError as exc:
        raise _missing(namespace, ref, "create it") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise _missing(namespace, ref, f"it cannot be read: {exc}") from exc
    # A header cannot carry anything else, and the client's own error would show the key.
    if not lines and not (text.isascii() and text.isprintable()):
        raise _missing(namespace, ref, "it holds characters that no header can have")
    if not text:
        raise _missing(namespace, ref, "it is empty; put the value into it")
    return text


def _missing(namespace: str, ref: SecretRef, fix: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"key {ref.key!r} of secret {ref.name!r} in namespace {namespace!r} is not usable: {fix}",
        reason="MODEL_REJECTED",
        metadata={"secret": ref.name, "key": ref.key, "namespace": namespace},
    )

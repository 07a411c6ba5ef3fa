"""API keys from files: local mode, and mounted Kubernetes Secrets."""

from __future__ import annotations

import asyncio
from pathlib import Path

from embedding.core.ports import SecretRef
from servicekit.errors import FailedPrecondition

_MAX_BYTES = 64 * 1024


class FileSecrets:
    """`Secrets` in files `<folder>/<name>/<key>`.

    Args:
        folder: None: there are no secrets.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    async def read(self, namespace: str, ref: SecretRef, *, lines: bool = False) -> str:
        """The file's text without white space around it. See Secrets."""
        if self._folder is None:
            raise _missing(namespace, ref, "this installation has no secrets folder (AGENTTEAMS_SECRETS_DIR)")
        return await asyncio.to_thread(_read, self._folder, namespace, ref, lines)


def _read(folder: Path, namespace: str, ref: SecretRef, lines: bool) -> str:
    path = folder / ref.name / ref.key
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

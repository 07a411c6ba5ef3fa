"""API keys from files: local mode, and mounted Kubernetes Secrets."""

from __future__ import annotations

import asyncio
from pathlib import Path

from embedding.core.ports import SecretRef
from manifests.secret_files import read_secret_file
from servicekit.errors import FailedPrecondition


class FileSecrets:
    """`Secrets` in files.

    Args:
        folder: None: there are no secrets.
        by_namespace: As of `read_secret_file`.
    """

    def __init__(self, folder: Path | None, *, by_namespace: bool = False) -> None:
        self._folder = folder
        self._by_namespace = by_namespace

    async def read(self, namespace: str, ref: SecretRef, *, lines: bool = False) -> str:
        """The file's text without white space around it. See Secrets."""
        try:
            return await asyncio.to_thread(
                read_secret_file,
                self._folder,
                namespace,
                (ref.name, ref.key),
                by_namespace=self._by_namespace,
                lines=lines,
            )
        except LookupError as exc:
            raise FailedPrecondition(
                str(exc.args[0]),
                reason="MODEL_REJECTED",
                metadata={"secret": ref.name, "key": ref.key, "namespace": namespace},
            ) from exc

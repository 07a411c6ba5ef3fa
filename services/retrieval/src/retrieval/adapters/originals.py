"""Where originals are kept, by its address: file:///folder or s3://bucket/prefix."""

import configparser
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from retrieval.adapters.blobs import LocalBlobs
from retrieval.core.original_sweep import ListedBlobs

if TYPE_CHECKING:
    from obstore.store import S3Store

_CREDENTIALS_LAST = timedelta(minutes=5)


class S3Access:
    """What S3 needs besides the address.

    Args:
        endpoint: Of a server that is not Amazon's; empty: Amazon's.
        region: Most other servers do not care.
        access_key_id: With the secret; empty: from the file, else from the machine's role.
        credentials_file: As Amazon's tools write it: `[default]`, `aws_access_key_id`,
            `aws_secret_access_key`. Read again every 5 minutes, so that it can be rotated.
    """

    def __init__(
        self,
        *,
        endpoint: str = "",
        region: str = "us-east-1",
        access_key_id: str = "",
        secret_access_key: str = "",
        credentials_file: Path | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._region = region
        self._key = access_key_id
        self._secret = secret_access_key
        self._file = credentials_file

    def store(self, bucket: str, prefix: str) -> "S3Store":
        """A store that retries for some seconds; what lasts longer is the worker's."""
        from obstore.store import S3Store  # noqa: PLC0415  # 40 ms that a local folder need not pay

        options: dict[str, Any] = {"region": self._region}
        if self._endpoint:
            options["endpoint"] = self._endpoint
        if self._file is not None:
            self._from_file()  # a wrong file stops the start
            options["credential_provider"] = self._from_file
        elif self._key:
            options |= {"access_key_id": self._key, "secret_access_key": self._secret}
        return S3Store(
            bucket,
            prefix=prefix or None,
            client_options={
                "allow_http": self._endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=5),
                "timeout": timedelta(minutes=5),  # of a request with its body; see the time-out of a step
            },
            retry_config={
                "max_retries": 3,
                "retry_timeout": timedelta(seconds=15),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=2),
                    "base": 2,
                },
            },
            **options,
        )

    def _from_file(self) -> Any:
        assert self._file is not None
        parsed = configparser.ConfigParser(interpolation=None)
        try:
            parsed.read_string(self._file.read_text(encoding="utf-8"))
            section = parsed["default"]
            found = {
                "access_key_id": section["aws_access_key_id"],
                "secret_access_key": section["aws_secret_access_key"],
                "token": section.get("aws_session_token"),
            }
        except (OSError, UnicodeDecodeError, configparser.Error, KeyError):
            # Without the error behind it: it would quote the file.
            raise ValueError(
                f"{self._file} cannot be read as credentials; it must have [default] with "
                "aws_access_key_id and aws_secret_access_key"
            ) from None
        return found | {"expires_at": datetime.now(UTC) + _CREDENTIALS_LAST}


def check_address(address: str) -> SplitResult:
    """Taken apart.

    Raises:
        ValueError: It is none of the two kinds.
    """
    parts = urlsplit(address)
    rest = parts.query or parts.fragment or "@" in parts.netloc
    if not rest and parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return parts
    if not rest and parts.scheme == "s3" and parts.netloc:
        return parts
    raise ValueError("must be file:///folder or s3://bucket/prefix, without credentials")


def open_blobs(address: str, *, folder: Path, s3: S3Access, scratch: Path | None = None) -> ListedBlobs:
    """The store at the address; an empty one is the folder.

    Raises:
        ValueError: The address is none of the two kinds, or the credentials cannot be read.
    """
    if not address:
        return LocalBlobs(folder)
    parts = check_address(address)
    if parts.scheme == "file":
        return LocalBlobs(Path(unquote(parts.path)))
    from retrieval.adapters.object_blobs import ObjectBlobs  # noqa: PLC0415  # see S3Access.store

    return ObjectBlobs(s3.store(parts.netloc, parts.path.strip("/")), scratch=scratch)

"""What can go wrong with model files.

AssetError
├── SourceUnavailable   no source could give the file (package missing, no network); another model may do
├── NotEnoughResources  disk or memory is short; a smaller model may do
├── HashMismatch        a file is not what it should be; never used, never replaced silently
└── InvalidConfiguration  an environment variable names something that does not exist
"""

from pathlib import Path


class AssetError(Exception):
    """A model file cannot be made available; the message names the fix."""


class SourceUnavailable(AssetError):
    """No source could give the file."""


class NotEnoughResources(AssetError):
    """Disk or memory is short."""


class InvalidConfiguration(AssetError):
    """A setting has a value that cannot be used."""


class HashMismatch(AssetError):
    """A file's content is not the pinned one."""

    def __init__(self, *, path: Path | str, expected: str, actual: str, fix: str) -> None:
        super().__init__(f"{path}: sha256 is {actual}, expected {expected}; {fix}")
        self.path = str(path)
        self.expected = expected
        self.actual = actual

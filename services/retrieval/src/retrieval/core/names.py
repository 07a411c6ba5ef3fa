"""Resource names, and the names derived from them."""

import hashlib
import re
import unicodedata

from servicekit.errors import InvalidArgument

_KB = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_KB_NAME = re.compile(rf"knowledgeBases/({_KB})")
_DOCUMENT_NAME = re.compile(rf"knowledgeBases/({_KB})/documents/([0-9a-v]{{26}})")
_MODEL_NAME = re.compile(rf"(?:tenants/{_KB}/)?models/[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?")
_BASE32HEX = "0123456789abcdefghijklmnopqrstuv"
_MAX_PATH_BYTES = 1024


def knowledge_base_id(name: str, *, field: str) -> str:
    """The last part of `knowledgeBases/{knowledge_base}`."""
    match = _KB_NAME.fullmatch(name)
    if match is None:
        raise InvalidArgument.field(
            field,
            "must be knowledgeBases/{knowledge_base}, the last part 1 to 63 lower-case letters, digits "
            "and hyphens that neither begins nor ends with a hyphen",
            name,
        )
    return match[1]


def document_ids(name: str, *, field: str) -> tuple[str, str]:
    """Knowledge base and document of `knowledgeBases/{k}/documents/{d}`."""
    match = _DOCUMENT_NAME.fullmatch(name)
    if match is None:
        raise InvalidArgument.field(
            field, "must be knowledgeBases/{knowledge_base}/documents/{document}, as a Document has it", name
        )
    return match[1], match[2]


def check_model(name: str, *, field: str) -> str:
    """The name itself, if it is `models/{model}` or `tenants/{tenant}/models/{model}`."""
    if _MODEL_NAME.fullmatch(name) is None:
        raise InvalidArgument.field(
            field,
            "must be models/{model}, the name of a ModelConfig, or tenants/{tenant}/models/{model} of "
            "another tenant's",
            name,
        )
    return name


def check_path(path: str, *, field: str) -> str:
    """The path in Unicode NFC, if it is relative, clean and short enough."""
    path = unicodedata.normalize("NFC", path)
    if not path:
        raise InvalidArgument.field(field, "must be set: the file's path, relative, with /")
    if len(path.encode()) > _MAX_PATH_BYTES:
        raise InvalidArgument.field(field, f"must have at most {_MAX_PATH_BYTES} bytes", path)
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in path):
        raise InvalidArgument.field(field, "must have no control characters", path)
    if "\\" in path:
        raise InvalidArgument.field(field, "must use / between folders, not \\", path)
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise InvalidArgument.field(
            field, "must be relative, without empty, . or .. parts (such as guide/install.md)", path
        )
    return path


def document_id(path: str) -> str:
    """The same path is the same document: 130 bits of the path's SHA-256."""
    number = int.from_bytes(hashlib.sha256(path.encode()).digest()) >> (256 - 130)
    return "".join(_BASE32HEX[number >> shift & 31] for shift in range(125, -1, -5))


def chunk_id(document: str, ordinal: int, text: str) -> str:
    """Derived, so that indexing the same text again replaces and never doubles."""
    return f"{document}-{ordinal:05d}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

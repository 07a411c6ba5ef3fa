"""Secrets as files: what local mode has, and what a cluster mounts."""

from pathlib import Path

_MAX_BYTES = 64 * 1024


def read_secret_file(
    folder: Path | None,
    namespace: str,
    ref: tuple[str, str],
    *,
    by_namespace: bool,
    lines: bool = False,
) -> str:
    """The file's text without white space around it.

    Args:
        folder: None: there are no secrets.
        namespace: The Secret's.
        ref: Its name, and the key in it.
        by_namespace: Files are `<namespace>__<name>__<key>`, as the operator writes those of all tenants into
            one Secret; no namespace and no name has an underscore. Otherwise `<name>/<key>`.
        lines: It may have several lines; no header can carry such a value.

    Raises:
        LookupError: It is not usable; the text says why, never what it holds.
    """
    name, key = ref
    if folder is None:
        raise _missing(namespace, ref, "this installation has no secrets folder (AGENTTEAMS_SECRETS_DIR)")
    path = folder / (f"{namespace}__{name}__{key}" if by_namespace else f"{name}/{key}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise _missing(namespace, ref, "its name leads out of the secrets folder")
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode().strip()
    except FileNotFoundError as exc:
        raise _missing(namespace, ref, "create it") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise _missing(namespace, ref, f"it cannot be read: {exc}") from exc
    # A header cannot carry anything else, and the HTTP client's own error would show the key.
    if not lines and not (text.isascii() and text.isprintable()):
        raise _missing(namespace, ref, "it holds characters that no header can have")
    if not text:
        raise _missing(namespace, ref, "it is empty; put the value into it")
    return text


def _missing(namespace: str, ref: tuple[str, str], fix: str) -> LookupError:
    return LookupError(f"key {ref[1]!r} of secret {ref[0]!r} in namespace {namespace!r} is not usable: {fix}")

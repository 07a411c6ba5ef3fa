"""Secrets as files: `<secrets_dir>/<name>/<key>`."""

from pathlib import Path

from manifests import SecretKeyRef


def read_secret(folder: Path | None, reference: SecretKeyRef) -> str:
    """A secret's value without white space around it. Raises LookupError that says why there is none."""
    if folder is None:
        raise LookupError("no secrets folder is configured (AGENTTEAMS_SECRETS_DIR)")
    try:
        return (folder / reference.name / reference.key).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise LookupError(f"secret {reference.name}, key {reference.key}: {why}") from error

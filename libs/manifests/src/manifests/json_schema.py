"""JSON schemas in manifests and requests: what is accepted."""

import json
from collections.abc import Mapping

MAX_BYTES = 64 * 1024


def schema_problem(schema: Mapping[str, object]) -> str:
    """Why this cannot be used as a JSON schema; empty if it can.

    Draft 2020-12 unless `$schema` names another. Nothing is fetched, and
    patterns have no lookaround and no back-references: they are matched in
    linear time, whatever a model or a caller writes.
    """
    from jsonschema_rs import RegexOptions, ValidationError, validator_for  # noqa: PLC0415  10 MB

    try:
        size = len(json.dumps(schema, allow_nan=False, separators=(",", ":")).encode())
    except (TypeError, ValueError, RecursionError) as error:
        return f"is not JSON ({error})"
    if size > MAX_BYTES:
        return f"has {size} bytes; {MAX_BYTES} is the most"
    try:
        validator_for(dict(schema), offline=True, pattern_options=RegexOptions())
    except ValidationError as error:
        at = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
        return f"is not a valid JSON schema: {_short(error.message)}" + (f" at {at[1:]}" if at else "")
    except ValueError as error:  # nested too deeply
        return f"is not a valid JSON schema: {_short(str(error))}"
    return ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:199] + "…"

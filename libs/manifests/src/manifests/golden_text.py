"""The text of a golden set: of anybody's, and up to a megabyte."""

from typing import Any

import yaml


class GoldenSetInvalid(ValueError):
    """The text is no golden set; says where and why."""


def read_yaml(text: str) -> Any:
    """What it says.

    Raises:
        GoldenSetInvalid: It is no YAML.
    """
    try:
        # Not the loader in C: a text of 200,000 brackets ends it, and the process with it.
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise GoldenSetInvalid(f"cannot be read: {where}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        why = getattr(error, "reason", "") or " ".join(str(error).split())
        raise GoldenSetInvalid(f"cannot be read: {why}") from error
    except RecursionError as error:
        raise GoldenSetInvalid("cannot be read: it is nested too deeply") from error

"""Starts the gateway: `python -m gateway`."""

import sys
from functools import partial

from pydantic import ValidationError

from gateway.assembly import assemble
from gateway.server import run
from gateway.settings import Settings


def main() -> None:
    """Settings -> adapters -> app -> server."""
    try:
        settings = Settings()  # from the environment
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        sys.exit("gateway: wrong settings (environment AGENTTEAMS_…): " + "; ".join(problems))
    run(settings, partial(assemble, settings))


if __name__ == "__main__":
    main()

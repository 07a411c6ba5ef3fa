"""Starts the operator."""

from agentteams_operator.assembly import assemble
from agentteams_operator.settings import Settings
from servicekit.server import run

if __name__ == "__main__":
    config = Settings()
    run(config, name="operator", build=lambda stack: assemble(config, stack))

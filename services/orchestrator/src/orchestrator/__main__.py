"""Starts the orchestrator."""

from orchestrator.assembly import assemble
from orchestrator.settings import Settings
from servicekit.server import run

if __name__ == "__main__":
    config = Settings()
    run(config, name="orchestrator", build=lambda stack: assemble(config, stack))

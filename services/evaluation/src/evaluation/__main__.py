"""Starts the evaluation service."""

from evaluation.assembly import assemble
from evaluation.settings import Settings
from servicekit.server import run

if __name__ == "__main__":
    config = Settings()
    run(config, name="evaluation", build=lambda stack: assemble(config, stack))

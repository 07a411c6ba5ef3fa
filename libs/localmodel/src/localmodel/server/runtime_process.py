"""The child process that runs a GGUF model: `python -m localmodel.server.runtime_process FILE`.

Prints one line of JSON, {"url": …}, when the model is loaded, and lives until
its standard input closes, that is, until its parent is gone.
"""

import argparse
import ctypes
import json
import os
import signal
import sys

KEY_VARIABLE = "LOCALMODEL_RUNTIME_KEY"
PR_SET_PDEATHSIG = 1
# Two requests at a time: more gain little on two cores (28, 32, 37 tokens/s with 1, 2, 4).
PARALLEL = 2
# One slot more than that: a leader and two members each find their own prompt again.
# With two slots the members' prefixes were computed anew at every turn. 115 MB each.
SLOTS = 3
CONTEXT_TOKENS_PER_SLOT = 4096
# Prompts of slots that were given to somebody else are kept here (28 kB a token
# for the 1.5B model), so a leader's prefix survives while its members run.
PROMPT_CACHE_MIB = 128


def main() -> None:
    """Loads the model, reports the address, waits for the end of stdin."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    _die_with(arguments.parent)

    import xllamacpp  # noqa: PLC0415 - an extra; missing, this process alone fails

    params = xllamacpp.CommonParams()
    params.model.path = arguments.path
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [os.environ[KEY_VARIABLE]]
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT_TOKENS_PER_SLOT
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    params.verbosity = 1
    server = xllamacpp.Server(params)
    sys.stdout.write(json.dumps({"url": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    # The server's own threads are in C++ and need no farewell.
    os._exit(0)


def _die_with(parent: int) -> None:
    """Asks Linux to end this process with its parent, also while the model is still loading."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request was made
        os._exit(0)


if __name__ == "__main__":
    main()

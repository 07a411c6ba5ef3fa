"""Runs a command that dies with its parent: `python child.py PARENT_PID COMMAND…`.

A program of its own, and not a function between fork and exec, because the
parent has gRPC threads, which do not survive a fork. Linux only; elsewhere a
killed parent leaves its children to be stopped by hand.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        # SIGKILL: nobody is left to wait for an orderly stop, and every service survives a crash.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request was made
        os._exit(0)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()

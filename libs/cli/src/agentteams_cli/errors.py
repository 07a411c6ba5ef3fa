"""What goes wrong for the user of the command, and the exit codes.

CliError                 1  the thing that was asked for failed
├── StackError           1  the services could not be started, or one keeps dying
├── UsageProblem         2  the command was called in a way that makes no sense
├── Unreachable          3  the services do not answer
└── Waiting              4  the run waits for a person
"""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_WAITING = 4
EXIT_INTERRUPTED = 130


class CliError(Exception):
    """One clear line, and what to do about it."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, fix: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.detail = detail
        """Lines to show below the message, such as the end of a log."""


class StackError(CliError):
    """The services could not be started, or one keeps dying."""


class UsageProblem(CliError):
    """The command was called in a way that makes no sense."""

    exit_code = EXIT_USAGE


class Unreachable(CliError):
    """The services do not answer."""

    exit_code = EXIT_UNREACHABLE


class Waiting(CliError):
    """The run waits for a person, and this command cannot ask one."""

    exit_code = EXIT_WAITING

"""Entry of the ``dledger`` command: its groups, and how failures are told.

What can go wrong in the world ends as one line on stderr and exit code 1; wrong usage is 2, Ctrl-C
is 130.  A traceback is left for what is our own mistake.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from broker.errors import BrokerError
from dledger.errors import LedgerError
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXPECTED = (LedgerError, BrokerError, RemotingError)

_COMMANDS = {
    "up": "broker.cli.group_commands",
    "down": "broker.cli.group_commands",
    "status": "broker.cli.group_commands",
    "kill-leader": "broker.cli.group_commands",
    "node": "broker.cli.node_commands",
    "leader": "broker.cli.leader_commands",
    "topic": "broker.cli.topic_commands",
    "produce": "broker.cli.produce_command",
    "consume": "broker.cli.consume_command",
    "log": "broker.cli.log_commands",
}


def _show_version(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if not is_wanted:
        return
    from importlib import metadata  # 30 ms that no other command needs

    try:
        print(f"dledger {metadata.version('dledger')}")
    except metadata.PackageNotFoundError:
        print("dledger, run from its sources")
    context.exit()


class _LazyGroup(click.Group):
    """A command's module is imported when it is used: help and errors come at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name])
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show the version and exit.",
)  # fmt: skip
def cli() -> None:
    """A message broker group on one replicated log.

    Start one with `dledger up`, look at it with `dledger status`, then `dledger produce` and
    `dledger consume`.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    code: object = 0
    try:
        code = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="dledger",
            standalone_mode=False,
        )
    except click.UsageError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        code = _end_quietly()
    except _EXPECTED as error:
        code = fail(str(error))
    except BaseExceptionGroup as group:
        code = _fail_for(group)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str) -> int:
    """Print *message* as the one line of a failure and return the exit code."""
    print(f"dledger: {message}", file=sys.stderr)
    return 1


def _fail_for(group: BaseExceptionGroup[BaseException]) -> int:
    """Tell the one failure in *group*; anything else is a mistake of ours and shown whole."""
    found = _leaves(group)
    if all(isinstance(error, KeyboardInterrupt) for error in found):
        return 130
    if all(isinstance(error, BrokenPipeError) for error in found):
        return _end_quietly()
    known = [error for error in found if isinstance(error, _EXPECTED)]
    if len(known) == len(found):
        return fail(str(known[0]))
    raise group


def _end_quietly() -> int:
    """End as a command does whose reader (`| head`) has seen enough."""
    # What is still buffered would raise once more when the interpreter flushes it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


if __name__ == "__main__":
    main()

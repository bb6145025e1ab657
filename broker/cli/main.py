"""Entry of the ``dledger`` command: its commands, and how failures are told.

What can go wrong in the world ends as one line on stderr and an exit code of `broker.cli.exits`.
A traceback is left for what is our own mistake.

A command is a click command in a module of its own family, named in `SECTIONS`; the module is
imported when the command is used, so that help and errors come at once.  It takes its group by
`servers.group_options`, prints by `output`, reads times and sizes by the types of `values`, and has
a line in docs/cli.md.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from broker.cli import exits
from broker.cli.lazy_group import LazyGroup
from broker.errors import BrokerError
from dledger.errors import LedgerError
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXPECTED = (LedgerError, BrokerError, RemotingError)

# Name -> module and first sentence of the help, which the list of commands shows without importing.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "A group on this machine": {
        "up": ("group_commands", "Start a group on this machine, or what is missing of it."),
        "down": ("group_commands", "Stop the group on this machine; its data stays."),
        "restart": (
            "restart_command",
            "Restart the nodes of the group on this machine one after another.",
        ),
        "kill-leader": (
            "group_commands",
            "Kill the leader of the group on this machine with SIGKILL and tell who follows it.",
        ),
    },
    "Messages": {
        "produce": (
            "produce_command",
            "Send BODY, or each line of a file or pipe, to TOPIC.",
        ),
        "consume": (
            "consume_command",
            "Print messages of TOPIC for a group, and commit how far it came.",
        ),
        "tail": (
            "tail_command",
            "Print messages of TOPIC as they are stored, for no group.",
        ),
        "message": ("message_commands", "Find messages by id, place or key."),
        "topic": ("topic_commands", "Create, alter, delete, list and describe topics."),
        "group": (
            "consumer_group_commands",
            "List, describe, create, alter and delete consumer groups.",
        ),
        "offset": ("offset_commands", "Put a consumer group elsewhere in a topic."),
        "dlq": ("dlq_commands", "Show dead letters, and send them to their group once more."),
    },
    "Running groups": {
        "status": ("group_commands", "Show who leads and how far each node has come."),
        "top": (
            "top_command",
            "Show nodes, topics and groups, live; q or Ctrl-C ends it.",
        ),
        "doctor": (
            "doctor_command",
            "Check a group and its machines, and say what to do.",
        ),
        "leader": ("leader_commands", "Show who leads, or hand the lead over."),
        "node": ("node_commands", "Run a single node; look after those of a group."),
        "nameserver": (
            "nameserver_command",
            "Run a name server for several broker groups until SIGTERM or Ctrl-C.",
        ),
    },
    "Measuring": {
        "bench": ("bench_command", "Measure how fast a group is from here."),
    },
    "Data folders": {
        "log": (
            "log_commands",
            "Prove, compare, measure and show a node's log.",
        ),
        "backup": (
            "backup_commands",
            "Copy a node's log into the new folder TARGET, while the node runs or not.",
        ),
        "restore": (
            "backup_commands",
            "Fill empty data folders with the backup in the folder SOURCE.",
        ),
    },
    "This command": {
        "cheat": (
            "cheat_command",
            "Show the commands of every day, or those for TASK.",
        ),
        "context": ("context_commands", "Keep groups by name."),
        "completion": (
            "completion_command",
            "Print the script that has SHELL complete commands and names.",
        ),
    },
}


def command_names() -> list[str]:
    """Return the names of all commands that are shown, in the order of their sections."""
    return [name for section in SECTIONS.values() for name in section]


def _show_version(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if not is_wanted:
        return
    from importlib import metadata  # 30 ms that no other command needs

    try:
        print(f"dledger {metadata.version('dledger')}")
    except metadata.PackageNotFoundError:
        print("dledger, run from its sources")
    context.exit()


class _Commands(LazyGroup):
    """The commands of `SECTIONS`."""

    def names(self) -> list[str]:
        return command_names()

    def place_of(self, name: str) -> tuple[str, str] | None:
        for section in SECTIONS.values():
            if name in section:
                return section[name][0], name.replace("-", "_")
        return None

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=words)
            for section in SECTIONS.values()
            for name, (_, words) in section.items()
            if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, command_names()))
        for title, section in SECTIONS.items():
            with formatter.section(title):
                rows = [(name.ljust(width), words) for name, (_, words) in section.items()]
                formatter.write_dl(rows)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show the version and exit.",
)  # fmt: skip
def cli() -> None:
    """A message broker group on one replicated log.

    Start one with `dledger up`, look at it with `dledger status`, then `dledger produce` and
    `dledger consume`.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 found out and not as it should be,
    130 Ctrl-C.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    code: object = exits.OK
    try:
        code = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="dledger",
            standalone_mode=False,
        )
    except click.UsageError as error:
        error.show()
        code = exits.USAGE
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = exits.INTERRUPTED
    except BrokenPipeError:
        code = _end_quietly()
    except _EXPECTED as error:
        code = fail(str(error))
    except BaseExceptionGroup as group:
        code = _fail_for(group)
    sys.exit(code if isinstance(code, int) else exits.OK)


def fail(message: str) -> int:
    """Print *message* as the one line of a failure and return the exit code."""
    print(f"dledger: {message}", file=sys.stderr)
    return exits.FAILURE


def _fail_for(group: BaseExceptionGroup[BaseException]) -> int:
    """Tell the one failure in *group*; anything else is a mistake of ours and shown whole."""
    found = _leaves(group)
    if all(isinstance(error, KeyboardInterrupt) for error in found):
        return exits.INTERRUPTED
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
    return exits.OK


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


if __name__ == "__main__":
    main()

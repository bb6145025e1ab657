"""``dledger cheat``: the commands of every day, by what one wants to do."""

from __future__ import annotations

import os

import click

from broker.cli.output import json_option, print_json

# Task -> (what one wants, how it is said); a test parses every command.
SHEET: dict[str, list[tuple[str, str]]] = {
    "start": [
        ("three nodes here, until Ctrl-C", "dledger up"),
        ("in the background, and stop them", "dledger up --detach"),
        ("", "dledger down"),
        ("one quick node to develop with", "dledger up --dev --data .dledger-dev"),
        ("will this machine do?", "dledger doctor -c node.toml"),
        ("one node, as a service runs it", "dledger node start -c node.toml"),
        ("a name server, for several groups", "dledger nameserver --metrics-port 5557"),
    ],
    "connect": [
        ("give a group a name and use it", "dledger context add prod b1:9876,b2:9876 --use"),
        ("which group is meant here, and why", "dledger context show"),
        ("another one, once", "dledger status --context prod"),
        ("complete names in this shell", "source <(dledger completion bash)"),
    ],
    "send": [
        ("one message", "dledger produce orders 'two chairs' -k order-17 -t furniture"),
        ("a line each", "seq 1 1000 | dledger produce orders"),
        ("JSON lines, in order of keys", "dledger produce orders --jsonl -f in.jsonl --ordered"),
        ("large bodies", "dledger produce orders -f big.txt --compress zlib"),
    ],
    "read": [
        ("what comes, without a group", "dledger tail orders"),
        ("the last five minutes with a word", "dledger tail orders --from -5m --grep chair"),
        ("ten for a group, and commit", "dledger consume orders -g billing -n 10"),
        ("look at them and commit nothing", "dledger consume orders -g billing -n 10 --no-ack"),
        ("one message, all about it", "dledger message get orders:3:128"),
        ("those with a key", "dledger message by-key orders order-17 --from -1h"),
        (
            "copy a topic",
            "dledger tail orders --from earliest --no-follow --json | dledger produce copy --jsonl",
        ),
    ],
    "find": [
        ("by key", "dledger message by-key orders order-17"),
        ("by key, of the last hour", "dledger message by-key orders order-17 --from -1h"),
        ("by id or place", "dledger message get orders:3:128"),
    ],
    "topics": [
        ("make one that keeps three days", "dledger topic create orders -q 8 --retention 3d"),
        ("which there are", "dledger topic list"),
        ("sizes, ends, rates", "dledger topic describe orders --watch"),
        ("more queues", "dledger topic alter orders -q 16"),
    ],
    "groups": [
        ("who lags", "dledger group list"),
        ("how far it is, live", "dledger group describe billing --watch"),
        ("what a reset would do", "dledger offset reset billing orders --to -1h --dry-run"),
        ("an hour back", "dledger offset reset billing orders --to -1h --yes"),
        ("what it has given up, and once more", "dledger dlq show billing"),
        ("", "dledger dlq resend billing"),
    ],
    "watch": [
        ("who leads, who lags", "dledger status --watch"),
        ("all of it, live", "dledger top"),
        ("how fast is it", "dledger bench e2e --rate 2000 --secs 10"),
    ],
    "trouble": [
        ("what is wrong, and what to do", "dledger doctor"),
        ("a file for who helps", "dledger doctor --bundle trouble.tar.gz"),
        ("all nodes anew, one by one", "dledger restart"),
        ("a copy of a log, while it runs", "dledger backup /backups/orders-1 --data .dledger"),
        ("move the lead", "dledger leader transfer n2"),
        ("are all logs the same", "dledger log verify .dledger/n1 --against .dledger/n2"),
        ("what is in a log", "dledger log stat .dledger/n1"),
    ],
}  # fmt: skip


@click.command()
@click.argument("task", required=False, type=click.Choice(list(SHEET)))
@json_option
def cheat(task: str | None, *, as_json: bool) -> None:
    """Show the commands of every day, or those for TASK.

    Example: dledger cheat send
    """
    sections = {name: rows for name, rows in SHEET.items() if task in (None, name)}
    if as_json:
        print_json(
            {
                name: [{"what": what, "command": command} for what, command in rows]
                for name, rows in sections.items()
            }
        )
        return
    color = False if os.environ.get("NO_COLOR") else None  # None: where it is a terminal
    for number, (name, rows) in enumerate(sections.items()):
        if number:
            click.echo()
        click.secho(name, bold=True, color=color)
        for what, command in rows:
            if what:
                click.secho(f"  # {what}", dim=True, color=color)
            click.echo(f"  {command}")

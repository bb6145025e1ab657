"""``dledger leader``: who leads, and handing the lead over."""

from __future__ import annotations

from typing import Any

import click
import trio

from broker.cli import exits
from broker.cli.ask import ask_group
from broker.cli.connecting import open_client
from broker.cli.output import json_option, print_json, tell
from broker.cli.servers import group_options
from broker.cli.status_table import verdict
from broker.client.errors import NoBrokerError

SETTLE_SECONDS = 5.0  # longest wait for the new leader to serve

_POLL_SECONDS = 0.01


@click.group()
def leader() -> None:
    """Show who leads, or hand the lead over."""


@leader.command()
@json_option
@group_options
def show(*, servers: list[str], as_json: bool) -> None:
    """Show who leads; exit code 1 while nobody does.

    Example: dledger leader show
    """
    view = trio.run(ask_group, servers)
    found = view.leader
    if as_json:
        print_json(
            {
                "leader": found.node_id if found else None,
                "address": found.address if found else None,
                "term": found.status.term if found and found.status else None,
            }
        )
    elif found is not None and found.status is not None:
        print(f"{found.node_id}  {found.address}  term {found.status.term}")
    else:
        raise NoBrokerError(verdict(view))
    if found is None:
        raise SystemExit(exits.FAILURE)


@leader.command()
@click.argument("target", required=False)
@json_option
@group_options
def transfer(target: str | None, *, servers: list[str], as_json: bool) -> None:
    """Hand the lead to the node TARGET, or to the follower that is furthest along.

    Example: dledger leader transfer n2
    """
    tell(*trio.run(_transfer, servers, target), as_json=as_json)


@leader.command("step-down")
@json_option
@group_options
def step_down(*, servers: list[str], as_json: bool) -> None:
    """Have the leader hand over to the follower that is furthest along.

    Example: dledger leader step-down
    """
    tell(*trio.run(_transfer, servers, None), as_json=as_json)


async def _transfer(servers: list[str], target: str | None) -> tuple[str, dict[str, Any]]:
    """Hand the lead over; return what became of it, for people and as JSON."""
    before = (await ask_group(servers)).leader
    if before is None:
        raise NoBrokerError("nobody leads, so there is no lead to hand over; see `dledger status`")
    if target == before.node_id:
        assert before.status is not None
        return f"{target} leads already", _result(before.node_id, before.status.term, None, 0.0)
    began = trio.current_time()
    async with open_client(servers) as mq:
        await mq.admin.transfer_leadership(target)
    with trio.move_on_after(SETTLE_SECONDS):
        while True:
            view = await ask_group(servers)
            now = view.leader
            if now is not None and now.status is not None and now.node_id != before.node_id:
                seconds = trio.current_time() - began
                text = (
                    f"{now.node_id} leads in term {now.status.term}; {before.node_id} handed over "
                    f"in {seconds:.2f} s"
                )
                return text, _result(now.node_id, now.status.term, before.node_id, seconds)
            await trio.sleep(_POLL_SECONDS)
    raise NoBrokerError(f"no new leader within {SETTLE_SECONDS:g} s: {verdict(view)}")


def _result(leader: str, term: int, before: str | None, seconds: float) -> dict[str, Any]:
    return {"leader": leader, "term": term, "before": before, "seconds": round(seconds, 3)}

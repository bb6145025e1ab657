"""What an operator does to one running node: take the lead from it, change its log level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import trio

from broker.cli.ask import ask_group
from broker.cli.connecting import open_client
from broker.cli.output import first_leaf, join_words, json_option, tell
from broker.cli.servers import group_options
from broker.cli.status_table import verdict
from broker.client.errors import NoBrokerError
from broker.config import LOG_LEVELS
from broker.errors import BrokerError
from broker.protocol.request_code import RequestCode
from dledger.config import parse_address
from dledger.errors import ConfigError
from dledger.remoting.client import open_remoting_client
from dledger.remoting.command import Command
from dledger.remoting.tcp import TcpNetwork

if TYPE_CHECKING:
    from broker.cli.ask import GroupView, NodeAnswer

DRAIN_SECONDS = 15.0  # longest wait for the others to have everything, and for a new leader
ANSWER_SECONDS = 3.0
LAG_MAX = 1000  # entries; a group under load is never without. Source: DLedger, as for a transfer

_POLL_SECONDS = 0.05


@click.command()
@click.argument("node_id")
@json_option
@group_options
def drain(node_id: str, *, servers: list[str], as_json: bool) -> None:
    """Make sure that the node NODE_ID can be stopped, and take the lead from it.

    Exit code 0 when the others are a majority that has everything; then stop it. It is not kept
    from leading again later.

    Example: dledger node drain n1
    """
    text = trio.run(drain_node, servers, node_id)
    tell(text, {"node_id": node_id, "text": text}, as_json=as_json)


@click.command("log-level")
@click.argument("node_id")
@click.argument("level", type=click.Choice(LOG_LEVELS))
@json_option
@group_options
def log_level(node_id: str, level: str, *, servers: list[str], as_json: bool) -> None:
    """Change what the node NODE_ID writes into its log, until its next start or SIGHUP.

    Example: dledger node log-level n1 debug
    """
    trio.run(_set_log_level, servers, node_id, level)
    value = {"node_id": node_id, "log_level": level}
    tell(f"{node_id} logs {level} and above", value, as_json=as_json)


async def drain_node(servers: list[str], node_id: str) -> str:
    """Take the lead from *node_id*; return a sentence that says it may be stopped.

    Raises:
        NoBrokerError: it may not be stopped; says why.
        ConfigError: the group has no such node.
    """
    reason, refusal = "nobody answers", ""
    with trio.move_on_after(DRAIN_SECONDS):
        while True:
            view = await ask_group(servers)
            _find(view, node_id)
            reason = _why_not(view, node_id)
            leader = view.leader
            if not reason and leader is not None and leader.status is not None:
                if leader.node_id != node_id:
                    others = [a.node_id for a in view.answering if a.node_id != node_id]
                    return (
                        f"{node_id} may be stopped: {leader.node_id} leads in term "
                        f"{leader.status.term}, {join_words(others)} have everything"
                    )
                try:
                    async with open_client(servers) as mq:
                        await mq.admin.transfer_leadership()
                except* BrokerError as group:  # a successor too slow to take over: another try
                    refusal = f": {first_leaf(group)}"
            await trio.sleep(_POLL_SECONDS)
    raise NoBrokerError(
        f"{node_id} must not be stopped now: "
        + (reason or f"it could not hand over the lead{refusal}")
    )


def _why_not(view: GroupView, node_id: str) -> str:
    """Return what keeps *node_id* from being stopped; "" when nothing does."""
    leader = view.leader
    if leader is None or leader.status is None:
        return verdict(view)
    if view.member_count == 1:
        return "it is the only node"
    others = [answer for answer in view.answering if answer.node_id != node_id]
    majority = view.member_count // 2 + 1
    if len(others) < majority:
        return f"only {len(others)} others answer, and a majority is {majority}"
    end = leader.status.commit_index
    behind = [
        answer.node_id
        for answer in others
        if answer.status is not None
        and (answer.status.role == "JOINING" or answer.status.dispatched_index + LAG_MAX < end)
    ]
    if len(others) - len(behind) < majority:
        return f"{join_words(behind)} lacks entries that the others have"
    return ""


def _find(view: GroupView, node_id: str) -> NodeAnswer | None:
    for answer in view.answers:
        if answer.node_id == node_id:
            return answer
    names = [answer.node_id for answer in view.answers if answer.node_id != "?"]
    if not names:
        return None  # nobody answers, and that is another thing to tell
    raise ConfigError(f"no node {node_id!r} in this group; it has {', '.join(names)}")


async def _set_log_level(servers: list[str], node_id: str, level: str) -> None:
    view = await ask_group(servers)
    found = _find(view, node_id)
    if found is None or found.status is None:
        raise NoBrokerError(
            f"{node_id} does not answer: {found.problem if found else verdict(view)}"
        )
    host, port = parse_address(found.address)
    request = Command(code=RequestCode.UPDATE_BROKER_CONFIG, body=f"logLevel={level}\n".encode())
    answer: Command | None = None
    with trio.move_on_after(ANSWER_SECONDS):
        async with open_remoting_client(TcpNetwork(), host, port) as client:
            answer = await client.request(request, timeout_seconds=ANSWER_SECONDS)
    if answer is None:
        raise NoBrokerError(f"{node_id} has not answered within {ANSWER_SECONDS:g} s")
    if answer.code:
        raise NoBrokerError(f"{node_id} refuses: {answer.remark}")

"""Commands that are given a name server of its own: it says which nodes to ask.

One that is a node, and answers what a name server does besides, is taken for the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from broker.client.broker_groups import how_to_register, list_groups
from broker.client.name_servers import NO_LIST, decode_groups
from broker.protocol.request_code import RequestCode
from dledger.config import parse_address
from dledger.remoting.client import open_remoting_client
from dledger.remoting.command import Command
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dledger.remoting.network import Network

Groups = dict[str, tuple[str, ...]]  # addresses of the nodes, by the name of their group


async def ask_groups(
    addresses: Iterable[str], *, seconds: float, network: Network
) -> dict[str, Groups]:
    """Return what the name servers at *addresses* know, by address; without those that are none."""
    found: dict[str, Groups] = {}

    async def ask(address: str) -> None:
        host, port = parse_address(address)
        with trio.move_on_after(seconds):
            try:
                async with open_remoting_client(network, host, port) as client:
                    request = Command(code=RequestCode.GET_BROKER_CLUSTER_INFO)
                    answer = await client.request(request, timeout_seconds=seconds)
                if answer.code:
                    return
                body = answer.body
                found[address] = decode_groups(
                    b"".join(body) if isinstance(body, list) else bytes(body)
                )
            except (RemotingError, *NO_LIST):
                return  # what it said before stands

    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(ask, address)
    return found


def merge(told: Iterable[Groups]) -> Groups:
    """Return all groups that any of the name servers knows."""
    found: dict[str, dict[str, None]] = {}
    for groups in told:
        for name, nodes in groups.items():
            found.setdefault(name, {}).update(dict.fromkeys(nodes))
    return {name: tuple(found[name]) for name in sorted(found)}


def why_none(address: str, groups: Groups) -> str:
    """Return why the name server at *address* names no group that could be meant."""
    if groups:
        return (
            f"{address} is a name server of {len(groups)} broker groups, and a command is for one: "
            f"{list_groups(groups)}; give the nodes of one of them"
        )
    return (
        f"{address} is a name server, and no broker group has registered with it; "
        f"{how_to_register(address)}"
    )

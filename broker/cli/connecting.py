"""A client for one command: it says at once when there is no group, instead of waiting for one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

import broker
from broker.cli.ask import ask_node
from broker.cli.name_servers import ask_groups, why_none
from broker.client.errors import NoBrokerError
from dledger.config import parse_address
from dledger.remoting.errors import RemotingError
from dledger.remoting.tcp import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from dledger.remoting.network import Network

_CONNECT_SECONDS = 2.0


@asynccontextmanager
async def open_client(
    addresses: Sequence[str], *, auto_create_topic: bool = True
) -> AsyncIterator[broker.Client]:
    """Open a client of the group at *addresses*, nodes' or name servers'.

    Raises:
        NoBrokerError: nobody listens at any of them, or only name servers that know no group.
    """
    await check_reachable(addresses)
    async with broker.connect(addresses, auto_create_topic=auto_create_topic) as mq:
        yield mq


async def check_reachable(addresses: Sequence[str], *, network: Network | None = None) -> None:
    """Raise `NoBrokerError` unless a node, or a name server that knows one, is at *addresses*."""
    wire = network or TcpNetwork()
    problems: dict[str, str] = {}
    empty: list[str] = []  # name servers that know of no group
    connected: set[str] = set()
    found = False

    async def knock(address: str, scope: trio.CancelScope) -> None:
        nonlocal found
        try:
            stream = await wire.connect(*parse_address(address))
        except RemotingError as error:
            problems[address] = str(error)
            return
        stream.close()
        connected.add(address)
        answer = await ask_node(address, seconds=_CONNECT_SECONDS, network=wire)
        if answer.is_stranger:
            told = await ask_groups([address], seconds=_CONNECT_SECONDS, network=wire)
            if told.get(address) == {}:
                empty.append(address)
                return
        # Whatever else is wrong with it, the client will say.
        found = True
        scope.cancel()

    with trio.move_on_after(_CONNECT_SECONDS):
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(knock, address, nursery.cancel_scope)
    if found or connected - set(empty):  # one that took the connection may be slow
        return
    if empty:
        raise NoBrokerError(why_none(",".join(empty), {}))
    first = addresses[0]
    why = problems.get(first, f"{first} does not answer within {_CONNECT_SECONDS:g} s")
    others = f" (and {len(addresses) - 1} more)" if len(addresses) > 1 else ""
    raise NoBrokerError(
        f"no node of the group can be reached: {why}{others}; `dledger up` starts a group on "
        "this machine, --server or --context names another"
    )

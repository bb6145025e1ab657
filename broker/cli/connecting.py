"""A client for one command: it says at once when there is no group, instead of waiting for one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

import broker
from broker.client.errors import NoBrokerError
from dledger.config import parse_address
from dledger.remoting.errors import RemotingError
from dledger.remoting.network import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_CONNECT_SECONDS = 2.0


@asynccontextmanager
async def open_client(
    addresses: Sequence[str], *, auto_create_topic: bool = True
) -> AsyncIterator[broker.Client]:
    """Open a client of the group at *addresses*.

    Raises:
        NoBrokerError: nobody listens at any of them.
    """
    await check_any_listens(addresses)
    async with broker.connect(addresses, auto_create_topic=auto_create_topic) as mq:
        yield mq


async def check_any_listens(addresses: Sequence[str]) -> None:
    """Raise `NoBrokerError` unless a connection to one of *addresses* can be made."""
    problems: dict[str, str] = {}
    found = False

    async def knock(address: str, scope: trio.CancelScope) -> None:
        nonlocal found
        try:
            stream = await TcpNetwork().connect(*parse_address(address))
        except RemotingError as error:
            problems[address] = str(error)
            return
        stream.close()
        found = True
        scope.cancel()

    with trio.move_on_after(_CONNECT_SECONDS):
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(knock, address, nursery.cancel_scope)
    if not found:
        first = addresses[0]
        why = problems.get(first, f"{first} does not answer within {_CONNECT_SECONDS:g} s")
        others = f" (and {len(addresses) - 1} more)" if len(addresses) > 1 else ""
        raise NoBrokerError(
            f"no node of the group can be reached: {why}{others}; `dledger up` starts a group on "
            "this machine, --server or --context names another"
        )

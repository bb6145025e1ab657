"""Where a message was born, as its record says: the address of the client that sent it.

For RocketMQ's clients only: ours writes its records itself, and leaves the host out.

Source: RocketMQ ``SendMessageProcessor``, which takes the channel's remote address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.handlers.registry import stock_client_address
from broker.message.model import NO_HOST, HostAddress

if TYPE_CHECKING:
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session


def born_host_of(session: Session, command: Command) -> HostAddress:
    """Return the IPv4 address of the client that sends; zeros where it has none or is ours."""
    address = stock_client_address(session, command)
    if address is None:
        return NO_HOST
    host, _, port = address.rpartition(":")
    parts = host.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in (*parts, port)):
        return NO_HOST
    numbers = list(map(int, parts))
    if max(numbers) > 255 or int(port) > 65535:
        return NO_HOST
    return HostAddress(bytes(numbers), int(port))

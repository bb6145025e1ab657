"""What a send comes back with."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import msgspec

from broker.message.message_id import encode_offset_id
from broker.message.model import HostAddress

if TYPE_CHECKING:
    from collections.abc import Mapping


class SendResult(msgspec.Struct, frozen=True, gc=False):
    """Where a message is. The same on every node of the group.

    A struct and not a dataclass, since one is built for every message sent.
    """

    topic: str
    queue_id: int
    queue_offset: int  # messages inside the queue; -1: a duplicate whose place is forgotten
    position: int  # bytes, of the record in the commit log; -1 when queue_offset is
    node: str  # address of the node that acknowledged it
    unique_id: str  # given by this client; the message's property UNIQ_KEY
    # How well it is kept by now, or better: "leader", "majority" or "all", then "/sync" (on their
    # disks) or "/async" (in their memory). "": the node does not say. With "leader" the place is
    # provisional: it is lost if another leader is elected that has no copy yet.
    durability: str = ""

    @property
    def message_id(self) -> str:
        """The offset id: 32 hexadecimal digits (56 with IPv6); "" when the place is forgotten.

        Source: RocketMQ ``MessageDecoder.createMessageId``.
        """
        if self.position < 0:
            return ""
        host, _, port = self.node.rpartition(":")
        try:
            ip = ipaddress.ip_address(host.strip("[]")).packed
        except ValueError:  # the node was addressed by name: the id then names no host
            ip = b"\0\0\0\0"
        return encode_offset_id(HostAddress(ip, int(port or 0)), self.position)


def durability_in(ext_fields: Mapping[str, Any] | None) -> str:
    """Return the durability that an answer to a send states; "" when it states none."""
    stated = (ext_fields or {}).get("durability")
    return stated if isinstance(stated, str) else ""

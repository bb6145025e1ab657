"""Records that name another broker as the one that stored them.

RocketMQ's C++ core of the time before 3.4.9 gives a message back to the host its record names, and
forgets it when that one does not answer: after a failover, every message the dead leader stored.
So what it pulls names the node that it pulls from, which takes back what any of them has stored.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from broker.message.codec import STORE_HOST_OFFSET
from dledger.remoting.command import LanguageCode

if TYPE_CHECKING:
    from broker.message.model import HostAddress
    from dledger.entry import Buffer
    from dledger.remoting.command import Command

_VERSION_OF_BROKER_NAMES = 121  # ordinal of MQVersion.V3_4_9; PyPI's rocketmq 0.4.4 says 63
_SIZE = struct.Struct(">i")
_HOST = struct.Struct(">4si")


def goes_by_store_hosts(command: Command) -> bool:
    """Return whether who sent *command* gives messages back to where their records say."""
    return command.language == LanguageCode.CPP and 0 < command.version < _VERSION_OF_BROKER_NAMES


def with_store_host(records: Buffer, host: HostAddress) -> bytearray:
    """Return a copy of whole *records*, back to back, that names *host*. Both are IPv4's.

    No CRC covers the field.
    """
    copy = bytearray(records)
    at = 0
    while at < len(copy):
        _HOST.pack_into(copy, at + STORE_HOST_OFFSET, host.ip, host.port)
        (size,) = _SIZE.unpack_from(copy, at)
        at += size
    return copy

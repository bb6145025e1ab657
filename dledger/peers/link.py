"""One connection to one member: handshake, messages in, messages out, and its end.

A connection carries messages in order or not at all: when it breaks, what was on its way is lost
and both ends hear of it; a message of an old connection is never delivered after a newer one
began.  Nothing is dropped from the middle: a peer that does not read is cut off instead.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

import trio

from dledger.errors import CorruptEntryError, HandshakeRefusedError
from dledger.peers.fixed_frames import frame_of, read_front
from dledger.peers.messages import from_command
from dledger.protocol import PEER_PROTOCOL_VERSION, PeerCode
from dledger.remoting.command import FLAG_ONEWAY, Command
from dledger.remoting.connection import Connection
from dledger.remoting.errors import ConnectionLostError, RemoteProtocolError
from dledger.remoting.frame import FRAME_SIZE_MAX, encode_frame
from dledger.remoting.outbox import Outbox
from dledger.remoting.rate_limited_log import LINE_SIZE_MAX, RateLimitedLog, shorten
from dledger.remoting.tcp_stream import receive_each

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dledger.config import LedgerConfig
    from dledger.remoting.command import Buffer
    from dledger.remoting.network import ByteStream

logger = logging.getLogger(__name__)

Message = dict[str, Any]

# Before it is known who speaks, no more is taken than a greeting needs: seven members with the
# longest names and hosts have 2.5 KiB.
GREETING_SIZE_MAX = 64 * 1024
_SHOWN_MAX = 200  # characters of a value in a complaint; longer ones are cut
_LOOKS_PER_SILENCE = 4  # how often the watch looks within the time after which a link is given up
_COMPLAINTS_MAX = 1000  # reasons remembered

_PING_CODE = int(PeerCode.PING)
_PING = b"".join(bytes(part) for part in encode_frame(Command(int(PeerCode.PING), FLAG_ONEWAY)))


class LinkHooks(Protocol):
    """What a link tells the server it belongs to; all calls are synchronous."""

    def hello_state(self) -> tuple[bool, int]:
        """Return (joining, last index) for this node's half of a handshake."""
        ...

    def on_peer_connected(self, link: PeerLink, *, joining: bool, last_index: int) -> None:
        """Hear that a handshake is done; ends an older link to the same peer first."""
        ...

    def on_peer_lost(self, link: PeerLink) -> None:
        """Hear that the link broke; called once for each `on_peer_connected`."""
        ...

    def on_messages(self, peer_id: str, messages: list[Message]) -> None:
        """Take everything that one receive brought, in order."""
        ...


class PeerLink:
    """A stream to a member, from the moment its handshake is done."""

    def __init__(
        self,
        *,
        peer_id: str,
        stream: ByteStream,
        connection: Connection,
        hooks: LinkHooks,
        buffer_size_max: int,
        silence_seconds: float,
        promises_synced: bool = False,
    ) -> None:
        self.peer_id = peer_id
        self.promises_synced = promises_synced  # what it promises is on its disk
        self._stream = stream
        self._connection = connection
        self._hooks = hooks
        self._silence_seconds = silence_seconds
        self._outbox = Outbox(stream, limit_bytes=buffer_size_max)
        self._unsent: list[Buffer] = []  # between `send` and `flush`
        # Looked at by `_watch` now and then, so that no message has to ask for the time.
        self._has_heard = True
        self._has_sent = True
        self.closed = False

    def send(self, message: Message) -> None:
        """Queue one message; `flush`, without anything between that waits, sends it."""
        if not self.closed:
            self._unsent += frame_of(message)

    def flush(self) -> None:
        """Send what is queued as far as the socket takes it; the rest follows by itself."""
        if self.closed:
            return
        self._has_sent = True
        unsent, self._unsent = self._unsent, []
        outbox = self._outbox
        outbox.send(unsent)
        if outbox.closed and outbox.overflowed:
            logger.warning(
                "%s does not read: more than peer_buffer_max bytes wait; closing the connection",
                self.peer_id,
            )
            self.close()

    def close(self) -> None:
        """End the link; its tasks notice and report it lost."""
        if not self.closed:
            self.closed = True
            self._stream.close()

    async def run(self) -> None:
        """Receive and watch until the link breaks; never raises for what the network does."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._outbox.run)
            nursery.start_soon(self._watch)
            await self._receive()
            self.close()
            nursery.cancel_scope.cancel()

    async def _receive(self) -> None:
        reason = "closed by the peer"
        try:
            self._deliver()  # what came behind the handshake
            if not self.closed:
                await receive_each(self._stream, self._take)
        except ConnectionLostError as error:
            reason = str(error)
        except (RemoteProtocolError, CorruptEntryError) as error:
            reason = f"it sent what cannot be used: {error}"
            logger.error("closing the connection to %s: %s", self.peer_id, error)
        logger.info("connection to %s ended: %s", self.peer_id, reason)

    def _take(self, data: bytes) -> bool:
        """Deliver what a receive brought; return whether nothing more is wanted."""
        if not self.closed and data:
            self._has_heard = True
            connection = self._connection
            messages: list[Message] = []
            position = 0
            if connection.is_between_frames:
                position = read_front(data, messages, frame_size_max=connection.frame_size_max)
            if position < len(data):
                connection.receive_data(data, start=position)
                self._read_commands(messages)
            if messages:
                self._hooks.on_messages(self.peer_id, messages)
        return self.closed

    def _deliver(self) -> None:
        messages: list[Message] = []
        self._read_commands(messages)
        if messages:
            self._hooks.on_messages(self.peer_id, messages)

    def _read_commands(self, messages: list[Message]) -> None:
        messages += [
            from_command(command)
            for command in self._connection.commands()
            if command.code != _PING_CODE
        ]

    async def _watch(self) -> None:
        """Keep the link warm and notice when the other end is gone without a word.

        TCP alone would go on retransmitting for minutes after a partition has healed.
        """
        interval = self._silence_seconds / _LOOKS_PER_SILENCE
        silent_looks = 0
        while not self.closed:
            await trio.sleep(interval)
            silent_looks = 0 if self._has_heard else silent_looks + 1
            self._has_heard = False
            if silent_looks >= _LOOKS_PER_SILENCE:
                logger.info("%s has been silent for %.1f s", self.peer_id, silent_looks * interval)
                self.close()
            elif not self._has_sent and not self._outbox.pending_size:
                self._outbox.send([_PING])
            self._has_sent = False


# -- handshake ----------------------------------------------------------------------------------


def _hello(config: LedgerConfig, hooks: LinkHooks, code: PeerCode) -> Command:
    joining, last_index = hooks.hello_state()
    return Command(
        code=int(code),
        flag=FLAG_ONEWAY,
        ext_fields={
            "version": PEER_PROTOCOL_VERSION,
            "group": config.group,
            "node_id": config.node_id,
            "members": _member_list(config),
            "segment_size": config.store.segment_size,
            "joining": joining,
            "last_index": last_index,
            "flush_disk_type": config.store.flush_disk_type.value,
        },
    )


def _member_list(config: LedgerConfig) -> str:
    members = sorted(config.members, key=lambda member: member.node_id)
    return ",".join(f"{member.node_id}={member.address}" for member in members)


def check_hello(config: LedgerConfig, fields: Mapping[str, Any]) -> str:
    """Return the peer's id, or raise with a sentence that says what does not match.

    Raises:
        HandshakeRefusedError: another group, member list, layout or protocol version.
    """

    def differs(what: str, theirs: object, ours: object) -> HandshakeRefusedError:
        return HandshakeRefusedError(
            f"{_show(fields.get('node_id'))} has {what} {_show(theirs)}, this node "
            f"{config.node_id!r} has {ours!r}; give both the same configuration"
        )

    theirs = fields.get("version")
    if theirs != PEER_PROTOCOL_VERSION:
        raise differs("peer protocol version", theirs, PEER_PROTOCOL_VERSION)
    if (group := fields.get("group")) != config.group:
        raise differs("group", group, config.group)
    if (members := fields.get("members")) != _member_list(config):
        raise differs("member list", members, _member_list(config))
    if (size := fields.get("segment_size")) != config.store.segment_size:
        raise differs("segment_size", size, config.store.segment_size)
    node_id = fields.get("node_id")
    if node_id == config.node_id:
        raise HandshakeRefusedError(
            f"a peer calls itself {node_id!r}, which is this node; two nodes run with one node_id"
        )
    # A list compared for equality: what came may be of a type that no set can look up.
    if node_id not in [member.node_id for member in config.members]:
        raise HandshakeRefusedError(f"{_show(node_id)} is not a member of group {config.group!r}")
    if type(fields.get("joining")) is not bool or type(fields.get("last_index")) is not int:
        raise HandshakeRefusedError(f"{node_id!r} sent a handshake without joining or last_index")
    return str(node_id)


def _show(value: object) -> str:
    """Return *value*, which anybody may have sent, as a line of the log can bear it."""
    if isinstance(value, str | bytes):
        return repr(value[:_SHOWN_MAX])
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return f"a {type(value).__name__}"


async def _next_command(stream: ByteStream, connection: Connection) -> Command:
    while (command := connection.next_command()) is None:
        data = await stream.receive_some()
        if not data:
            raise ConnectionLostError("closed during the handshake")
        connection.receive_data(data)
    return command


async def _send_all(stream: ByteStream, command: Command) -> None:
    rest = stream.send_now(encode_frame(command))
    while rest:
        await stream.wait_writable()
        rest = stream.send_now(rest)


async def greet(
    stream: ByteStream, config: LedgerConfig, hooks: LinkHooks, expected: str
) -> tuple[Connection, Mapping[str, Any]]:
    """Do the dialler's half of a handshake; return the connection and the peer's fields.

    Raises:
        HandshakeRefusedError: one of the two does not accept the other.
        RemotingError: the connection broke, or what came is no handshake.
    """
    connection = Connection()
    await _send_all(stream, _hello(config, hooks, PeerCode.HELLO))
    answer = await _next_command(stream, connection)
    if answer.code != PeerCode.HELLO_ANSWER:
        raise RemoteProtocolError(f"expected an answer to the handshake, got code {answer.code}")
    fields = answer.ext_fields or {}
    if answer.remark:
        raise HandshakeRefusedError(f"refused by {expected}: {answer.remark}")
    if (node_id := check_hello(config, fields)) != expected:
        raise HandshakeRefusedError(
            f"the address of member {expected} is answered by {node_id}; check the member list"
        )
    return connection, fields


async def welcome(
    stream: ByteStream, config: LedgerConfig, hooks: LinkHooks
) -> tuple[Connection, Mapping[str, Any]]:
    """Do the listener's half of a handshake; see `greet`."""
    connection = Connection(frame_size_max=GREETING_SIZE_MAX)
    hello = await _next_command(stream, connection)
    if hello.code != PeerCode.HELLO:
        raise RemoteProtocolError(
            f"expected a handshake, got code {hello.code}; this is the port for members of the "
            "group, clients use the broker's own"
        )
    fields = hello.ext_fields or {}
    answer = _hello(config, hooks, PeerCode.HELLO_ANSWER)
    try:
        check_hello(config, fields)
    except HandshakeRefusedError as error:
        answer.remark = str(error)
        await _send_all(stream, answer)
        raise
    connection.frame_size_max = FRAME_SIZE_MAX
    await _send_all(stream, answer)
    return connection, fields


class Complaints:
    """Logs a reason once, until another one or success takes its place."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}
        self._log = RateLimitedLog(logger)

    def log(self, key: str, reason: str, *, level: int = logging.WARNING) -> None:
        """Log *reason* unless it is what was logged last for *key*."""
        reason = shorten(reason, LINE_SIZE_MAX)
        if self._last.get(key) != reason:
            if len(self._last) >= _COMPLAINTS_MAX:
                self._last.clear()
            self._last[key] = reason
            self._log.log(level, "%s: %s", key, reason)

    def settled(self, key: str) -> None:
        """Forget the last reason for *key*."""
        self._last.pop(key, None)


def describe(error: BaseException) -> str:
    """Return a sentence for a failed handshake."""
    if isinstance(error, trio.TooSlowError):
        return "no handshake in time (connect_timeout_ms)"
    return str(error) or type(error).__name__


__all__ = [
    "Complaints",
    "LinkHooks",
    "PeerLink",
    "check_hello",
    "describe",
    "greet",
    "welcome",
]

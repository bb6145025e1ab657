"""All connections of one member to the others: who dials, who listens, and how long to wait.

Of two members the one with the smaller id dials, so that there is one connection for each pair.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from dledger.config import FlushDiskType
from dledger.errors import HandshakeRefusedError
from dledger.peers.link import Complaints, PeerLink, describe, greet, welcome
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from typing import Any

    from dledger.config import LedgerConfig, Member
    from dledger.peers.link import LinkHooks
    from dledger.remoting.connection import Connection
    from dledger.remoting.network import ByteStream, Listener, Network

logger = logging.getLogger(__name__)

_RECONNECT_DELAY_MIN_SECONDS = 0.02
# Callers that have not said who they are, far more than there are members; of more than that the
# oldest goes, as a member greets at once.
_UNKNOWN_MAX = 64


class PeerLinks:
    """Keeps a link to every other member, as far as they can be reached."""

    def __init__(
        self, *, config: LedgerConfig, network: Network, chance: random.Random, hooks: LinkHooks
    ) -> None:
        self._config = config
        self._network = network
        self._chance = chance
        self._hooks = hooks
        self._complaints = Complaints()
        self._unknown: dict[ByteStream, None] = {}  # the oldest first
        self._connect_seconds = config.raft.connect_timeout_ms / 1000
        self._delay_max_seconds = config.raft.reconnect_delay_max_ms / 1000

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and dial until cancelled; started once the port is bound.

        Raises:
            AddressInUseError: another process has the peer port.
        """
        config = self._config
        port = config.listen_port or config.member.port
        async with trio.open_nursery() as nursery:
            if len(config.members) > 1:
                listener = await self._network.listen(config.listen_host, port)
                nursery.start_soon(self._accept, listener, nursery)
                for member in config.members:
                    if member.node_id > config.node_id:
                        nursery.start_soon(self._dial, member)
            task_status.started()
            await trio.sleep_forever()

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        try:
            while True:
                stream = await listener.accept()
                if len(self._unknown) >= _UNKNOWN_MAX:
                    oldest = next(iter(self._unknown))
                    del self._unknown[oldest]
                    oldest.close()
                self._unknown[stream] = None
                nursery.start_soon(self._serve, stream)
        finally:
            listener.close()

    async def _serve(self, stream: ByteStream) -> None:
        try:
            with trio.fail_after(self._connect_seconds):
                connection, fields = await welcome(stream, self._config, self._hooks)
        except (RemotingError, HandshakeRefusedError, trio.TooSlowError) as error:
            # By host: each try comes from another port, and is no other news.
            host = stream.peer_address.rpartition(":")[0]
            self._complaints.log(f"connection from {host}", describe(error))
            stream.close()
            return
        except BaseException:
            stream.close()
            raise
        finally:
            self._unknown.pop(stream, None)
        await self._run_link(stream, connection, fields)

    async def _dial(self, member: Member) -> None:
        key = f"connection to {member.node_id} ({member.address})"
        delay = 0.0
        while True:
            await trio.sleep(delay * (0.5 + self._chance.random() / 2))
            delay = min(max(2 * delay, _RECONNECT_DELAY_MIN_SECONDS), self._delay_max_seconds)
            stream = None
            try:
                with trio.fail_after(self._connect_seconds):
                    stream = await self._network.connect(member.host, member.port)
                    connection, fields = await greet(
                        stream, self._config, self._hooks, member.node_id
                    )
            except (RemotingError, HandshakeRefusedError, trio.TooSlowError) as error:
                level = logging.ERROR if isinstance(error, HandshakeRefusedError) else logging.INFO
                self._complaints.log(key, describe(error), level=level)
                if stream is not None:
                    stream.close()
                continue
            except BaseException:
                if stream is not None:
                    stream.close()
                raise
            self._complaints.settled(key)
            began = trio.current_time()
            await self._run_link(stream, connection, fields)
            if trio.current_time() - began > self._delay_max_seconds:
                delay = 0.0  # it held: a link that ends as soon as it stands is not hurried

    async def _run_link(
        self, stream: ByteStream, connection: Connection, fields: Mapping[str, Any]
    ) -> None:
        link = PeerLink(
            peer_id=fields["node_id"],
            stream=stream,
            connection=connection,
            hooks=self._hooks,
            buffer_size_max=self._config.raft.peer_buffer_max,
            silence_seconds=2 * self._config.raft.election_timeout_max_ms / 1000,
            # Whoever does not say is taken to promise its memory: an ack never says too much.
            promises_synced=fields.get("flush_disk_type") == FlushDiskType.SYNC_FLUSH.value,
        )
        logger.info("connected to %s", link.peer_id)
        self._hooks.on_peer_connected(
            link, joining=fields["joining"], last_index=fields["last_index"]
        )
        try:
            await link.run()
        finally:
            link.close()
            self._hooks.on_peer_lost(link)

"""PySyncObj's transport without sockets: messages in by a call, messages out in a list.

Votes and requests for votes wait here until the vote file is synced: a vote that leaves and is
then forgotten in a crash can be given twice (raft-engine.md, flaw c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from pysyncobj.transport import Transport

if TYPE_CHECKING:
    from pysyncobj.node import Node

    from dledger.store.vote_file import VoteFile

Message: TypeAlias = dict[str, Any]

_NEEDS_VOTE = frozenset({"request_vote", "response_vote"})


class EngineTransport(Transport):  # type: ignore[misc]  # PySyncObj is untyped
    """An outbox; the server above empties it after each step."""

    ready = True  # there is nothing to bind

    def __init__(self, votes: VoteFile) -> None:
        super().__init__(None, None, [])
        self._votes = votes
        self.outbox: list[tuple[str, Message]] = []  # what waits for no vote goes in as it is
        self._held: list[tuple[int, int, str, Message]] = []  # (version, term, peer, message)

    def send(self, node: Node, message: Message) -> bool:
        """Put *message* into the outbox, or hold it until the vote it carries is on disk."""
        if message["type"] in _NEEDS_VOTE and self._votes.synced_version < self._votes.version:
            self._held.append((self._votes.version, message["term"], node.id, message))
        else:
            self.outbox.append((node.id, message))
        return True

    def release_votes(self, current_term: int) -> None:
        """Let go what waited for the vote file, but only what was said in *current_term*."""
        synced = self._votes.synced_version
        still_held = []
        for version, term, peer_id, message in self._held:
            if version > synced:
                still_held.append((version, term, peer_id, message))
            elif term == current_term:
                self.outbox.append((peer_id, message))
        self._held = still_held

    def take_outbox(self) -> list[tuple[str, Message]]:
        """Return what is to be sent, as (peer id, message), oldest first, and forget it."""
        outbox, self.outbox = self.outbox, []
        return outbox

    def drop_held(self, peer_id: str) -> None:
        """Forget what was held for a peer whose connection broke."""
        self._held = [item for item in self._held if item[2] != peer_id]

    def deliver(self, node: Node, message: Message) -> None:
        """Hand one received message to the engine."""
        self._onMessageReceived(node, message)

    def connected(self, node: Node) -> None:
        """Tell the engine that a peer is reachable."""
        self._onNodeConnected(node)

    def disconnected(self, node: Node) -> None:
        """Tell the engine that a peer is not reachable any more."""
        self._onNodeDisconnected(node)

    def destroy(self) -> None:
        """There is nothing to close."""

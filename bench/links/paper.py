"""What slow links must cost, from the rules of the group alone; no I/O, no measurement here.

A message goes to the leader, from it to the followers and back, and the answer goes home; nothing
of it can be left out.  What is added is what the group itself decides: when it seals an entry, and
how long it waits before it elects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.store.append_queue import GROUP_SIZE_MAX, GROUPS_ON_THEIR_WAY_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dledger.config import RaftConfig

RECORD = 220  # bytes of a message of 100 in the log, with its share of a producer mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Seconds, or messages a second, at least and at most."""

    least: float
    most: float

    def holds(self, values: Sequence[float], *, slack: float = 0.0) -> bool:
        """Whether all *values* lie in it, give or take a share of its ends."""
        return all(self.least * (1 - slack) <= value <= self.most * (1 + slack) for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A group of three whose members are *link* seconds apart, and its client *home* seconds."""

    link: float  # one way, between any two members
    home: float  # one way, between the client and any member
    sync: float  # seconds of a sync, on average
    raft: RaftConfig

    @property
    def one_in_flight(self) -> Range:
        """Seconds from a send to its ack: there, to a follower and back, home; and one sync.

        The leader syncs while the entry travels, so a link longer than a sync hides its own; the
        follower's counts, and it is the faster of two.
        """
        travel = 2 * self.home + 2 * self.link
        return Range(least=travel + 0.3 * self.sync, most=travel + 2 * self.sync)

    def many_in_flight(self, task_count: int) -> Range:
        """Messages a second of tasks that each wait for their ack, of 100 bytes.

        An entry is sealed when none is on its way, or 64 KiB wait and fewer than four are.  So a
        message waits for up to one round trip of the members before it travels, unless others fill
        its entry; and no more than four entries commit in a round trip.
        """
        commit = 2 * self.link + self.sync
        slowest = 2 * self.home + 2 * commit
        fastest = 2 * self.home + commit
        return Range(
            least=task_count / slowest, most=min(task_count / fastest, self.bytes_a_second / RECORD)
        )

    @property
    def bytes_a_second(self) -> float:
        """What goes through at most, whatever is sent: so many entries of so many bytes a round.

        Over long links this and nothing else is the limit.
        """
        return GROUPS_ON_THEIR_WAY_MAX * GROUP_SIZE_MAX / (2 * self.link + self.sync)

    @property
    def after_a_kill(self) -> Range:
        """Seconds from a leader's death to the next ack, its connections closed by its machine.

        The news travels; the first survivor stands within the stagger: a round for the pre-vote, a
        round for the vote, which is on disk before it is given; a round for the new leader's first
        entry. The client asks around meanwhile, and sends: a round of its own, and one of the
        members'. The second survivor may have asked for pre-votes as well, and gives way.
        """
        least = self.link + 3 * 2 * self.link
        asking = 2 * (2 * self.home) + 2 * self.link + _CLIENT_PAUSE
        return Range(
            least=least,
            most=least + 4 * self.sync + 2 * self.raft.election_stagger_ms / 1000 + asking,
        )

    @property
    def after_a_freeze(self) -> Range:
        """The same when the leader says nothing more: the first timeout of two comes on top."""
        raft, kill = self.raft, self.after_a_kill
        silence = raft.election_timeout_min_ms - raft.heartbeat_interval_ms
        return Range(
            least=silence / 1000 + kill.least - self.link,
            # The earlier of two draws may be nearly the later of them; then both ask, and one
            # gives way.
            most=raft.election_timeout_max_ms / 1000 + kill.most,
        )


_CLIENT_PAUSE = 0.2  # between two rounds of a client that asks who leads, about

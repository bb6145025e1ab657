"""Bugs of the client library as a member of consumer groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.client.group_member import GroupMember
from broker.client.send_backs import SendBacks
from broker.client.topic_reading import TopicReading
from jepsen_like.mutants.grounds import MEMBERS
from jepsen_like.mutants.mutant import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence


@mutant(on=MEMBERS)
def what_fails_counts_as_sent_back() -> Sequence[Patch]:
    """A message that fails is done at once, and never sent back."""

    async def send_back(self: Any, item: Any) -> None:
        item.progress.returned(item.message)

    return [(SendBacks, "_send_back", send_back)]


@mutant(on=MEMBERS)
def a_new_queue_is_read_from_its_end() -> Sequence[Patch]:
    """A queue that comes from another member is read from where it ends now."""
    stock = TopicReading.add

    async def add(self: Any, queues: Any, start: Any, nursery: Any) -> None:
        await stock(self, queues, "last" if self.queues else start, nursery)

    return [(TopicReading, "add", add)]


@mutant(on=MEMBERS)
def nobody_minds_a_change() -> Sequence[Patch]:
    """A member that is told of a change shares out nothing anew."""
    return [(GroupMember, "look_again", lambda *_: None), (GroupMember, "balance", _once)]


async def _once(self: Any) -> None:
    if not any(seat.has_begun for seat in self.seats):
        await _BALANCE(self)


_BALANCE = GroupMember.balance

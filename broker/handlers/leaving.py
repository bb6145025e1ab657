"""Members that are being taken out of their groups.

From when that is proposed until it is applied a member still seems to be in its group.  One that is
heard of meanwhile has to join behind that: as it seems to be in already, nothing would be written,
and it would be out.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from broker.groups.consumers import leave_group
from broker.handlers.until_dispatched import UntilDispatched

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.groups.presence import Member
    from broker.handlers.changes import Done
    from broker.store.append_queue import AppendQueue
    from dledger.errors import LedgerError


class Leaving:
    """Proposes on the serving leader that members leave, and knows of whom that is under way."""

    def __init__(self, queue: AppendQueue, dispatched_index: Callable[[], int]) -> None:
        """Make it with nobody leaving.

        Args:
            queue: where commands go.
            dispatched_index: tells up to which entry all is applied here.
        """
        self._queue = queue
        self._dispatched_index = dispatched_index
        self._under_way: Counter[Member] = Counter()  # entries that are not applied yet
        self._committed: UntilDispatched[Member] = UntilDispatched()

    def __contains__(self, member: object) -> bool:
        """Return whether that a member leaves is not applied yet."""
        return member in self._under_way

    def propose(self, member: Member, done: Done = lambda _index, _error: None) -> None:
        """Propose that *member* leaves; *done* hears the index of that entry, or what failed.

        Raises:
            NotLeaderError, LedgerBusyError, LedgerError: as `AppendQueue.put_command`.
        """
        self._queue.put_command(leave_group(*member), partial(self._ended, member, done))
        self._under_way[member] += 1

    def dispatched(self) -> None:
        """Forget those who have left by now."""
        for member in self._committed.take(self._dispatched_index()):
            self._forget(member)

    def _ended(self, member: Member, done: Done, index: int, error: LedgerError | None) -> None:
        if error is not None:
            self._forget(member)
        else:
            self._committed.append((index, member))
            self.dispatched()
        done(index, error)

    def _forget(self, member: Member) -> None:
        if self._under_way[member] > 1:
            self._under_way[member] -= 1
        else:
            del self._under_way[member]

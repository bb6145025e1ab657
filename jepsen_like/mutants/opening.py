"""A queue of appends that opens as soon as its node leads; several bugs begin with that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.store.append_queue import AppendQueue
from broker.store.append_state import AppendState

if TYPE_CHECKING:
    from collections.abc import Callable

    from jepsen_like.mutants.mutant import Patch


def opens_at_once(log_of: Callable[[Any], Any] = lambda store: store) -> Patch:
    """Return the patch: whether the log is dispatched is not asked.

    Args:
        log_of: makes of the store what the queue's offsets are recounted from.
    """

    def refresh(self: Any) -> None:
        ledger = self._ledger
        if not ledger.is_leader:
            if self._state is not None or self._groups:
                self._close()
        elif self._state is None and not self._groups and not ledger.core.unfinished_count:
            self._state = AppendState(self._dispatched, log_of(ledger.store))
            self._opened()

    return AppendQueue, "refresh", refresh

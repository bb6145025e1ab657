"""Whether a node is of use, for load balancers and whoever restarts processes.

*Alive* is a node whose event loop answers at all.  *Ready* is one that takes part: it leads and
serves, or it follows a leader it hears of and lacks no more than `BEHIND_MAX` entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dledger.core import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.store.derived import DerivedState
    from dledger.server import LedgerServer

# A follower under load always lacks a little. Source: DLedger ``maxLeadershipTransferWaitIndex``.
BEHIND_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether a node takes part, and how it stands."""

    reason: str  # why not; "" when it does
    node_id: str
    role: str
    term: int
    leader_id: str | None
    behind: int  # entries known to be committed and not yet dispatched here

    @property
    def is_ready(self) -> bool:
        """Whether the node takes part."""
        return not self.reason

    def to_json(self) -> dict[str, Any]:
        """Return it as the page has it."""
        return {
            "ready": self.is_ready,
            **({"reason": self.reason} if self.reason else {}),
            "node_id": self.node_id,
            "role": self.role,
            "term": self.term,
            "leader_id": self.leader_id,
            "behind": self.behind,
        }


class Health:
    """Looks at one node."""

    def __init__(
        self,
        *,
        ledger: LedgerServer,
        derived: DerivedState,
        is_serving: Callable[[], bool],
    ) -> None:
        self._ledger = ledger
        self._derived = derived
        self._is_serving = is_serving
        self.is_stopping = False  # set by whoever stops the node: balancers look elsewhere then

    def readiness(self) -> Readiness:
        """Return how the node stands at this moment."""
        core = self._ledger.core
        behind = max(core.engine.commit_index - self._derived.dispatched_index, 0)
        return Readiness(
            reason=self._why_not(behind),
            node_id=core.config.node_id,
            role=core.role.value,
            term=self._ledger.term,
            leader_id=self._ledger.leader_id,
            behind=behind,
        )

    def _why_not(self, behind: int) -> str:
        core = self._ledger.core
        if self.is_stopping:
            return "the node is stopping"
        if core.engine.storage_stalled:
            return "a sync of the log has not come back for too long"
        if core.role is Role.JOINING:
            return "the node started empty and is being filled"
        if self._ledger.leader_id is None:
            return "nobody leads"
        if core.role is Role.LEADER:
            return "" if self._is_serving() else "the node leads and has not begun to serve yet"
        if behind > BEHIND_MAX:
            return f"{behind} committed entries are not dispatched here yet"
        return ""

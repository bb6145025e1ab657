"""What a member tells the rooms above: how far entries are committed, and who leads.

Both are told when a pump ends and not by the mere passing of time.  A follower may tell of commits
some milliseconds later, where nobody waits for them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.core import LedgerCore, Role

logger = logging.getLogger(__name__)


class Notices:
    """Tells watchers of one member what has changed.

    Attributes:
        is_behind: whether something that is known to be committed is still to be told.
        leader_change_count: how often another node was found to lead.
    """

    def __init__(self, core: LedgerCore) -> None:
        """Make it; nobody watches *core* yet."""
        self._core = core
        self._commit_watchers: list[Callable[[int], None]] = []
        self._role_watchers: list[Callable[[Role, int, str | None], None]] = []
        self._may_wait: Callable[[int], bool] = lambda _: False
        self.is_behind = False
        self._told_index = core.committed_index
        self._told_role: tuple[Role, int, str | None, bool] | None = None
        self._told_situation: tuple[object, ...] = ()
        self._leader_is_lost = False
        self.leader_change_count = 0

    @property
    def leader_id(self) -> str | None:
        """See `LedgerServer.leader_id`."""
        engine = self._core.engine
        return None if self._leader_is_lost and not engine.has_live_leader else engine.leader_id

    def watch_commits(self, watcher: Callable[[int], None]) -> None:
        """See `LedgerServer.watch_commits`."""
        self._commit_watchers.append(watcher)

    def watch_role(self, watcher: Callable[[Role, int, str | None], None]) -> None:
        """See `LedgerServer.watch_role`."""
        self._role_watchers.append(watcher)

    def let_commits_wait(self, may_wait: Callable[[int], bool]) -> None:
        """See `LedgerServer.let_commits_wait`."""
        self._may_wait = may_wait

    def may_be_put_off(self) -> bool:
        """Return whether nobody waits for what this member, a follower, has not told yet.

        Its answer is on the way.  To publish what is committed takes a follower half as long again,
        and who shares its processor may be the leader; a few entries later it takes no longer.
        """
        engine = self._core.engine
        if not self._core.follows_quietly:
            return False
        return engine.commit_index == engine.applied_index or self._may_wait(engine.commit_index)

    def publish(self) -> None:
        """Tell what is new."""
        engine = self._core.engine
        committed = engine.applied_index
        if committed > self._told_index:
            self._told_index = committed
            for watcher in self._commit_watchers:
                watcher(committed)
        situation = engine.situation()
        if situation == self._told_situation:
            return
        self._told_situation = situation
        # Lost only here, where the watchers hear of it, and not by the mere passing of time.
        self._leader_is_lost = not engine.has_live_leader
        role = (self._core.role, engine.term, self.leader_id, engine.leader_ready)
        if role != self._told_role:
            if self._told_role is None or role[2] not in (None, self._told_role[2]):
                self.leader_change_count += 1
            self._told_role = role
            logger.info("%s in term %d, leader %s", role[0].value, role[1], role[2] or "unknown")
            for role_watcher in self._role_watchers:
                role_watcher(*role[:3])

    def log_replaced(self, base_index: int) -> None:
        """Go on from *base_index*: the log is another one, and those above know."""
        self._told_index = base_index

"""How fast a member that is far behind is sent what the others have long had.

Reading, sending, checking, writing and syncing the old costs the group's machines the same as the
new does, and a member that takes all it can get takes it from whoever sends.  So while something
is being committed, a piece of the old (a message to that member, at least half full, all of it
committed without it) is followed by a rest as long as the piece took, from being sent to being
promised: on the member's processor and disk, and on the leader's, at least half the time is left
to the new.  No rest is longer than the longest election timeout, though: a piece that took longer
waited for something else than work.  And none follows a piece during which hardly anything was
appended: there is nothing to give way to, and over a slow link most of a piece's time is the way.

However busy the group is, the member gains on it: it need not rest before it has been sent half as
much again as was appended meanwhile.  Only its own speed and the window can keep it from that, as
they would without any rest.

When nobody rests is the leader's to know (`dledger.raft.leading`): while nothing is committed, be
it that nobody sends or that what is sent waits for the member, where the others are too few, and
where a send waits for every copy.
"""

from __future__ import annotations

from dataclasses import dataclass

_WORTH_A_REST = 1 / 16  # of a piece's bytes, appended while it was on its way


@dataclass(slots=True)
class Pace:
    """What one member, as seen by the leader, was sent last of the old, and when more is due."""

    is_kept: bool = False  # what it was sent last was old
    is_out: bool = False  # the last piece is on its way
    resting_until: float = float("-inf")
    _last_index: int = 0  # of the last piece
    _sent_at: float = 0.0
    _enough_end: float = 0.0  # where the log must have got to for the last piece to earn a rest
    _next_end: float = 0.0  # once the log ends there the next piece is due, rest or no rest

    def sent(self, last_index: int, *, size: int, end: int, now: float) -> None:
        """Note that a piece of *size* bytes has left; *end* is the position where the log ends."""
        # Two bytes appended call for three.  What comes in one go calls for several pieces.
        start = min(self._next_end, end) if self.is_kept else end
        self._next_end = start + size * 2 / 3
        self._enough_end = end + size * _WORTH_A_REST
        self._last_index, self._sent_at = last_index, now
        self.is_kept = self.is_out = True

    def acknowledged(
        self, match_index: int, *, end: int, now: float, rest_seconds_max: float
    ) -> None:
        """Note what the member has; with the last piece its rest begins, if it earns one."""
        if self.is_out and self._last_index <= match_index:
            self.is_out = False
            rest = min(now - self._sent_at, rest_seconds_max) if end >= self._enough_end else 0.0
            self.resting_until = now + rest

    def is_due(self, end: int, *, is_idle: bool, now: float) -> bool:
        """Whether the next piece may leave although something is being committed.

        Args:
            end: position where the log ends.
            is_idle: nothing is on its way to the member.
            now: second of the clock.
        """
        return end >= self._next_end or (is_idle and now >= self.resting_until)

    def forget(self) -> None:
        """Note that the member is sent the newest, or is looked at anew."""
        self.is_kept = self.is_out = False
        self.resting_until = float("-inf")

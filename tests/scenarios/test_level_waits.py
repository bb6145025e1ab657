"""Waits for more than a commit, while the member that would make it more is away."""

from __future__ import annotations

import weakref

from dledger.durability import Copies, Durability
from dledger.raft.level_waits import LevelWaits

ALL = Durability(Copies.ALL, True)


class _Levels:
    """As of a leader one of whose followers is away for good."""

    of_commit = Durability(Copies.MAJORITY, True)

    def want(self, level: Durability, index: int) -> None:
        pass

    def reached(self, level: Durability) -> int:
        return 0

    def best_of(self, index: int) -> Durability:
        return self.of_commit


class _Request:
    """What a wait's answer needs: a session, a command, a body."""

    def answer(self, reached: Durability | None) -> None:
        assert reached == _Levels.of_commit


def test_waits_that_are_over_keep_nothing_while_a_member_is_away() -> None:
    waits = LevelWaits(_Levels())  # type: ignore[arg-type]
    requests = [_Request() for _ in range(1000)]
    alive = weakref.WeakSet(requests)
    for index, request in enumerate(requests, start=1):
        waits.add(index, ALL, deadline=index, done=request.answer)
    requests.clear()
    del request

    waits.finish(now=1e9, committed_index=10**6)

    assert len(waits) == 0
    assert len(alive) == 0
    assert sum(map(len, waits._by_level.values())) <= 64

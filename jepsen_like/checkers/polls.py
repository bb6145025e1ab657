"""What one reader gets, poll after poll.

int-poll-skip, int-nonmonotonic-poll   an offset left out, or a step back, within a poll
poll-skip, nonmonotonic-poll           the same between two polls of one assignment
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.history import Event


def check_polls(events: list[Event], *, has_retention: bool) -> Iterator[Anomaly]:
    """Yield what is wrong with the polls."""
    expected: dict[tuple[int, int], int] = {}  # (process, queue) -> next offset
    for event in events:
        if event.type != "ok":
            continue
        if event.f == "assign":
            for queue, offset in event.v:
                expected[event.p, queue] = offset
        elif event.f == "poll" and event.k is not None:
            wanted = expected.get((event.p, event.k))
            kinds = ("poll-skip", "nonmonotonic-poll")
            for offset, value in event.v:
                if wanted is not None and offset != wanted:
                    is_skip = offset > wanted
                    if not (is_skip and has_retention):
                        yield Anomaly(
                            kinds[0] if is_skip else kinds[1],
                            f"process {event.p}, queue {event.k}: {value} at {offset}, expected "
                            f"{wanted}",
                        )
                wanted = offset + 1
                kinds = ("int-poll-skip", "int-nonmonotonic-poll")
            if wanted is not None:
                expected[event.p, event.k] = wanted

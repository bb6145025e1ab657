"""What one reader gets, poll after poll."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly
from jepsen_like.checkers.appends import Seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.history import Event

KINDS = {
    "int-poll-skip": "an offset left out within a poll",
    "int-nonmonotonic-poll": "a step back, or none, within a poll",
    "poll-skip": "an offset left out between an assignment and its first poll, or between two "
    "polls of one process",
    "nonmonotonic-poll": "a step back, or none, at the same place",
}


def check_polls(events: list[Event], *, has_retention: bool) -> Iterator[Anomaly]:
    """Yield what is wrong with the polls."""
    first = Seen(events).first_everywhere if has_retention else {}
    expected: dict[tuple[int, int], tuple[int, int]] = {}  # process, queue -> next offset, line
    for event in events:
        if event.type != "ok":
            continue
        if event.f == "assign":
            for queue, offset in event.v:
                expected[event.p, queue] = (offset, event.i)
        elif event.f == "poll" and event.k is not None:
            wanted, line = expected.get((event.p, event.k), (None, event.i))
            kinds = ("poll-skip", "nonmonotonic-poll")
            for offset, value in event.v:
                if wanted is not None and offset != wanted:
                    is_skip = offset > wanted
                    # What retention has dropped is rightly passed over.
                    is_dropped = has_retention and offset <= first.get(event.k, offset)
                    if not (is_skip and is_dropped):
                        yield Anomaly(
                            kinds[0] if is_skip else kinds[1],
                            f"process {event.p}, queue {event.k}: {value} at {offset}, expected "
                            f"{wanted}",
                            (line, event.i) if line != event.i else (line,),
                            event.k,
                            event.p,
                        )
                wanted, line = offset + 1, event.i
                kinds = ("int-poll-skip", "int-nonmonotonic-poll")
            if wanted is not None:
                expected[event.p, event.k] = (wanted, line)

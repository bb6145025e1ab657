"""What only the simulator sees, as it looks inside.

`jepsen_like.sim.promises`, `jepsen_like.sim.drops` and `jepsen_like.sim.keys` note it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.checkers.anomaly import Anomaly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.history import Event

KINDS = {
    "early-promise": "a member promises a leader, votes or shows as committed what a power loss "
    "would take from it",
    "broken-promise": "what a member promised a leader, voted or showed as committed is gone when "
    "it starts again",
    "false-promise": "a member promises its leader an entry that is not the leader's",
    "early-voter": "a member whose disk was lost votes or counts before it has everything that was "
    "committed until then",
    "unbacked-commit": "a leader shows as committed what no majority has promised it in its term, "
    "or nothing of its own term with it",
    "committed-cut": "a member cuts off an entry that is committed",
    "double-vote": "one member votes for two in one term",
    "states-differ": "two members derive other states from the same entries",
    "committed-differs": "two members have other entries at one committed index",
    "incomplete-leader": "a leader lacks what was committed before its term",
    "early-drop": "a member drops a segment that is neither too old, nor too much, nor in the way "
    "of a disk above its watermark",
    "early-trim": "a queue is trimmed of a message younger than its topic keeps",
    "trims-differ": "two members trim a queue to different offsets at the same entry",
    "unfound-key": "a message that a healed member holds is not found there by its unique id",
    "index-differs": "the key index of a healed member is not what is derived from its log again",
    "hidden-drop": "who asks for an offset that is gone is not told so, or not where to go on",
    "overstated-ack": "a send is told that more members have its message, or have it on their "
    "disks, than do",
    "over-limit": "a node takes another request of a connection that has more unanswered than "
    "connection_inflight_size_max",
}


def check_promises(events: list[Event]) -> Iterator[Anomaly]:
    """Yield what was noted."""
    for event in events:
        if event.f in KINDS:
            yield Anomaly(event.f, f"{event.node}: {event.err}", (event.i,))

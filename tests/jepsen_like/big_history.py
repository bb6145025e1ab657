"""How long the checkers take: ``python -m tests.jepsen_like.big_history 300000``."""

from __future__ import annotations

import random
import sys
import time
from typing import TYPE_CHECKING

from jepsen_like.checkers import CHECKERS
from tests.jepsen_like.handmade import Lines, S

if TYPE_CHECKING:
    from jepsen_like.history import History

QUEUES, READERS, RATE = 8, 3, 200


def big_history(operation_count: int) -> History:
    """A valid history as a long run leaves it: sends, polls, ends, commits; faults; dumps."""
    chance = random.Random(operation_count)
    lines = Lines()
    nodes = ("n1", "n2", "n3")
    lines.note("setup", v={"members": list(nodes)}, t=0)
    for node in nodes:
        lines.note("start", node=node, t=0)
    queues: list[list[str]] = [[] for _ in range(QUEUES)]
    position = [[0] * QUEUES for _ in range(READERS)]
    for reader in range(READERS):
        starts = [[queue, 0] for queue in range(QUEUES)]
        lines.add(1 + reader, "ok", "assign", v=starts, g=f"g{reader}" if reader else None, t=0)
    done, t, fault = 0, 0, None
    while done < operation_count:
        t += S // RATE
        queue = chance.randrange(QUEUES)
        value = f"c-{done}"
        lines.add(10, "invoke", "send", k=queue, v=value, t=t)
        lines.add(10, "ok", "send", k=queue, v=value, o=len(queues[queue]), t=t + 1000)
        queues[queue].append(value)
        done += 1
        for reader in range(READERS):
            at, end = position[reader][queue], len(queues[queue])
            group = f"g{reader}" if reader else None
            if chance.random() < 0.3:
                found = [[offset, queues[queue][offset]] for offset in range(at, end)]
                lines.add(1 + reader, "ok", "poll", k=queue, v=found, g=group, t=t + 2000)
                position[reader][queue] = end
                done += 1
            if group is not None and chance.random() < 0.02:
                upto = [[queue, position[reader][queue]]]
                lines.add(1 + reader, "invoke", "commit", v=upto, g=group, t=t + 3000)
                lines.add(1 + reader, "ok", "commit", v=upto, g=group, t=t + 4000)
                lines.add(20, "invoke", "committed", k=queue, g=group, t=t + 5000)
                lines.add(20, "ok", "committed", k=queue, g=group, o=upto[0][1], t=t + 6000)
                done += 2
        if chance.random() < 0.1:
            lines.add(21, "invoke", "end", k=queue, t=t + 7000)
            lines.add(21, "ok", "end", k=queue, o=len(queues[queue]), t=t + 8000)
            done += 1
        if chance.random() < 0.002:
            lines.note("heal" if fault else "fault", v=fault or "pause n1", t=t + 9000)
            fault = None if fault else "pause n1"
    lines.note("healed", t=t + S)
    lines.note("recovered", t=t + S)
    pairs = [[[offset, value] for offset, value in enumerate(values)] for values in queues]
    for queue in range(QUEUES):
        lines.add(30 + queue, "ok", "drain", k=queue, v=pairs[queue], o=0, t=t + 2 * S)
    lines.note("drained", t=t + 2 * S)
    for node in nodes:
        for queue in range(QUEUES):
            lines.add(40, "ok", "dump", k=queue, v=pairs[queue], o=0, node=node, t=t + 3 * S)
        lines.note("dumped", node=node, t=t + 3 * S)
    return lines.history()


def main() -> None:
    """Tell what one core needs for each checker."""
    tell = sys.stdout.write
    history = big_history(int(sys.argv[1]))
    tell(f"{len(history.events):,} lines\n")
    whole = time.process_time()
    for name, checker in CHECKERS.items():
        begun = time.process_time()
        found = list(checker(history.events, False))
        tell(f"{name:10} {time.process_time() - begun:6.2f} s  {len(found)} anomalies\n")
    tell(f"{'all':10} {time.process_time() - whole:6.2f} s\n")


if __name__ == "__main__":
    main()

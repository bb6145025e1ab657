"""Send a message every 10 ms while the lead changes hands, and tell how long each one took.

python examples/follow_the_leader.py 200

Meanwhile, in another terminal: `dledger leader transfer` or `dledger kill-leader`.
"""

from __future__ import annotations

import os
import sys

import trio

import broker


async def main(count: int) -> None:
    """Send *count* messages; say who leads whenever that changes."""
    slowest = 0.0
    leader: str | None = None
    async with (
        broker.connect(os.environ.get("DLEDGER_SERVER", "127.0.0.1:9876")) as client,
        client.producer("example") as producer,
    ):
        for number in range(count):
            began = trio.current_time()
            try:
                result = await producer.send("heartbeats", b"%d" % number, ordering_key="one")
            except broker.NotWrittenError as error:
                print(f"{number} is not written, so it may be sent again: {error}")
                continue
            except broker.OutcomeUnknownError as error:
                print(f"{number} may be written: look before you send it again: {error}")
                continue
            seconds = trio.current_time() - began
            slowest = max(slowest, seconds)
            if result.node != leader:
                leader = result.node
                print(f"{number}: acknowledged by {leader}, after {seconds * 1000:.1f} ms")
            await trio.sleep(0.01)
        stats = producer.stats
    print(f"{stats.acked} of {count} acknowledged, {stats.retried} requests repeated")
    print(f"the slowest took {slowest * 1000:.1f} ms")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 200)

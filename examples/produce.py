"""Send the lines of standard input to a topic; the servers are those of $DLEDGER_SERVER.

seq 1000 | python examples/produce.py numbers
"""

from __future__ import annotations

import os
import sys

import trio

import broker


async def main(topic: str) -> None:
    """Send all lines at once: what is under way together travels in a few requests."""
    async with (
        broker.connect(os.environ.get("DLEDGER_SERVER", "127.0.0.1:9876")) as client,
        client.producer("example") as producer,
        trio.open_nursery() as nursery,
    ):

        async def send(line: bytes) -> None:
            result = await producer.send(topic, line)
            # Here a majority of the nodes has the message on its disks.
            print(f"{line.decode()} is {topic}/{result.queue_id}/{result.queue_offset}")

        for line in sys.stdin.buffer.read().splitlines():
            nursery.start_soon(send, line)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "example")

"""Print the messages of a topic; a second run goes on where this one stopped.

python examples/consume.py numbers 1000
"""

from __future__ import annotations

import os
import sys

import trio

import broker


async def main(topic: str, count: int) -> None:
    """Print *count* messages, and commit how far that came when the block ends."""
    async with (
        broker.connect(os.environ.get("DLEDGER_SERVER", "127.0.0.1:9876")) as client,
        client.consumer("example", topic) as consumer,
    ):
        async for message in consumer:
            print(f"{topic}/{message.queue_id}/{message.queue_offset}: {message.body.decode()}")
            count -= 1
            if not count:
                break


if __name__ == "__main__":
    trio.run(
        main,
        sys.argv[1] if len(sys.argv) > 1 else "example",
        int(sys.argv[2]) if len(sys.argv) > 2 else 10,
    )

"""Without an event loop: the lines of a file in, and worker threads that deal with them.

seq 100 | python examples/blocking.py numbers
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import broker.sync

if TYPE_CHECKING:
    from broker import Message


def handle(message: Message) -> int:
    """Deal with one message; it is committed once this and those before it have ended well."""
    with message:
        return len(message.body)


def main(topic: str) -> None:
    """Send all lines, then read until nothing more comes for a second."""
    with broker.sync.connect(os.environ.get("DLEDGER_SERVER", "127.0.0.1:9876")) as client:
        with client.producer("example") as producer:
            results = producer.send_many(topic, sys.stdin.buffer.read().splitlines())
            print(f"sent {len(results)}")
        with (
            ThreadPoolExecutor(4) as pool,
            client.consumer("blocking-example", topic, auto_commit=False) as consumer,
        ):
            futures = []
            while (message := consumer.get(wait=1.0)) is not None:
                futures.append(pool.submit(handle, message))
            sizes = [future.result() for future in futures]
        print(f"read {len(sizes)}, {sum(sizes)} bytes")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "example")

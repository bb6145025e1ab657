"""Under asyncio: send some messages at the same time, and read them with a limit of time.

python examples/asyncio_produce_consume.py numbers
"""

from __future__ import annotations

import asyncio
import os
import sys

import broker


async def main(topic: str) -> None:
    """Send ten messages, read ten back, and say how it went."""
    address = os.environ.get("DLEDGER_SERVER", "127.0.0.1:9876")
    async with broker.connect(address) as client:
        async with client.producer("example") as producer:
            sends = [producer.send(topic, b"%d" % n, ordering_key="one queue") for n in range(10)]
            results = await asyncio.gather(*sends)
            print(f"sent {len(results)} to queue {results[0].queue_id}")

        async with client.consumer("asyncio-example", topic) as consumer:
            count = 0
            try:
                async with asyncio.timeout(10):
                    async for message in consumer:
                        async with message:  # an error in here: the message comes again
                            print(f"{message.queue_id}/{message.queue_offset}", message.body)
                        count += 1
                        if count == len(results):
                            break
            except TimeoutError:
                print("no more messages came")  # and none is lost by that


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "example"))

"""A process that sends batches of 256 at full speed while another one is measured.

Started as ``python -m bench.beside HOST PORT TOPIC QUEUES BODY``; it sends until its stdin is
closed, waits for its answers, and prints how many messages were acknowledged and in what time.
"""

from __future__ import annotations

import json
import random
import select
import subprocess
import sys
from time import perf_counter
from typing import TYPE_CHECKING

from bench import raw_load
from bench.frames import FrameRing
from bench.measured import LoadError
from bench.plan import Kind, Load

if TYPE_CHECKING:
    from types import TracebackType

_SLICE_SECONDS = 0.25  # between two looks at stdin
_END_SECONDS = 30.0


class Beside:
    """Such a process, from the outside."""

    def __init__(
        self, host: str, port: int, topic: str, *, queue_count: int, body_size: int
    ) -> None:
        arguments = [host, str(port), topic, str(queue_count), str(body_size)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.beside", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.written = 0
        self.rate = 0.0

    def __enter__(self) -> Beside:
        """Return once it sends.

        Raises:
            LoadError: it has ended.
        """
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "sending\n":
            self._process.wait()
            raise LoadError("the process that was to send meanwhile has ended")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            told, _ = self._process.communicate("", timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise LoadError("the process that sends meanwhile does not end") from None
        if self._process.returncode:
            raise LoadError("a send that was made meanwhile failed")
        found = json.loads(told)
        self.written, self.rate = found["written"], found["written"] / found["seconds"]


def main() -> None:
    """Send until stdin ends."""
    host, port, topic, queue_count, body_size = sys.argv[1:]
    load = Load("", Kind.RAW, 8, 256).fitted(int(body_size))
    chance = random.Random()
    ring = FrameRing(
        topic=topic,
        queue_count=int(queue_count),
        body_size=int(body_size),
        batch_count=load.batch_count,
        producer_id=chance.getrandbits(63) or 1,
        chance=chance,
        frame_count_min=load.in_flight,
    )
    written = 0
    with raw_load.connect(host, int(port)) as connected:
        print("sending", flush=True)
        began = perf_counter()
        while not select.select([sys.stdin], [], [], 0)[0]:
            written += raw_load.run_sends(
                connected,
                ring,
                in_flight=load.in_flight,
                batch_count=load.batch_count,
                seconds=_SLICE_SECONDS,
                warm_up_seconds=0.0,
            ).written_count
    print(json.dumps({"written": written, "seconds": perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()

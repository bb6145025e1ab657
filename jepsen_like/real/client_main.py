"""The load, in a process of its own inside a client's namespace.

python -m jepsen_like.real.client_main --name c1 --do appends,questions --load JSON
    --brokers 10.77.1.1:9876,... --history FILE

Runs until SIGTERM, then comes to an end by itself.  What happened is in FILE, line by line as it
happened, so that a run that is cut off can be judged as far as it came.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import broker.client
from dledger.clock import SystemClock
from dledger.config import parse_address
from dledger.remoting.tcp import TcpNetwork
from jepsen_like.history import History
from jepsen_like.workloads.administration import Administration
from jepsen_like.workloads.appends import Appends
from jepsen_like.workloads.handling import Handling, Ordered
from jepsen_like.workloads.load import Load
from jepsen_like.workloads.membership import Membership
from jepsen_like.workloads.own_clients import OwnClients
from jepsen_like.workloads.questions import Questions
from jepsen_like.workloads.readers import Readers
from jepsen_like.workloads.stock import Node

if TYPE_CHECKING:
    from broker.client.connect import Client
    from broker.client.consumer_options import MemberTimes
    from dledger.remoting.network import Network

Workload = Appends | Readers | Questions | Administration | Handling | Ordered | Membership
WORKLOADS: dict[str, type[Workload]] = {
    "appends": Appends,
    "readers": Readers,
    "questions": Questions,
    "administration": Administration,
    "handling": Handling,
    "ordered": Ordered,
    "membership": Membership,
}
END_SECONDS = 1.0  # on top of what a send may take


class ProcessClients(OwnClients):
    """Clients of this process; see `jepsen_like.workloads.load.Clients`."""

    def __init__(self, name: str, load: Load, brokers: list[str]) -> None:
        self.load = load
        self._name = name
        self._brokers = brokers
        self._count = 0

    def _client(
        self,
        name: str,
        chance: random.Random,
        client_id: str | None,
        member_times: MemberTimes | None,
    ) -> Client:
        self._count += 1
        brokers = chance.sample(self._brokers, len(self._brokers))
        return broker.client.connect(
            brokers[: max(1, len(brokers) - 1)],
            chance=random.Random(f"{self.load.seed} {self._name} {name} {self._count}"),
            group_timeout=6.0,
            request_timeout=1.0,
            auto_create_topic=False,
            client_id=client_id,
            member_times=member_times,
        )

    @property
    def nodes(self) -> list[Node]:
        """See `WireClients`."""
        return [
            Node(f"n{number}", *parse_address(address))
            for number, address in enumerate(self._brokers, start=1)
        ]

    def network_of(self, name: str) -> Network:
        """See `WireClients`."""
        return TcpNetwork()

    def wall_ms(self) -> int:
        """See `StockClients`."""
        return SystemClock().wall_ms()


def now() -> float:
    """Return seconds that all processes of the machine count alike."""
    return time.monotonic_ns() / 1e9


async def run(clients: ProcessClients, names: list[str], history: History) -> None:
    """Run the workloads until SIGTERM; members of groups go on until they have got everything."""
    workloads: list[Workload] = [WORKLOADS[name](clients, history) for name in names]
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            for workload in workloads:
                nursery.start_soon(workload.run)
            async for _ in signals:
                break
            async with trio.open_nursery() as ending:
                for workload in workloads:
                    if isinstance(workload, Membership):
                        ending.start_soon(workload.settle)
                        continue
                    if isinstance(workload, Appends):
                        workload.finish()
                    else:
                        workload.is_over = True
                    ending.start_soon(trio.sleep, clients.load.send_timeout + END_SECONDS)
            nursery.cancel_scope.cancel()
    for workload in workloads:
        if isinstance(workload, Appends):
            history.note("retried", o=workload.retried)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--do", required=True)
    parser.add_argument("--load", required=True)
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--history", type=Path, required=True)
    arguments = parser.parse_args()
    history = History(now)
    with arguments.history.open("w", encoding="utf-8", buffering=1) as file:
        history.on_event = lambda event: file.write(event.to_json() + "\n")
        clients = ProcessClients(
            arguments.name, Load(**json.loads(arguments.load)), arguments.brokers.split(",")
        )
        trio.run(run, clients, arguments.do.split(","), history)


def command(*, name: str, do: str, load: Load, brokers: list[str], history: Path) -> list[str]:
    """Return the command line that `main` reads."""
    return [
        sys.executable, "-m", "jepsen_like.real.client_main",
        "--name", name,
        "--do", do,
        "--load", json.dumps(dataclasses.asdict(load)),
        "--brokers", ",".join(brokers),
        "--history", str(history),
    ]  # fmt: skip


if __name__ == "__main__":
    main()

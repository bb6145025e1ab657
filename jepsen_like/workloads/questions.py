"""W2 and W4: where queues end, what groups have committed, how the group stands, and transfers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from broker.client.errors import ClientError, RequestFailedError
from broker.errors import BrokerError
from jepsen_like.workloads.appends import TOPIC

if TYPE_CHECKING:
    from broker.client.admin import Admin
    from jepsen_like.history import History
    from jepsen_like.workloads.load import Clients


# Many that ask seldom: who asks all the time waits for a dead leader from before it was deposed,
# and finds out about the new one as soon as there is something to be wrong about.
CLIENTS = 5
PAUSE_SECONDS = 0.6  # on average


class Questions:
    """A few clients that ask."""

    def __init__(self, clients: Clients, history: History) -> None:
        self.clients = clients
        self.history = history
        self.is_over = False

    async def run(self) -> None:
        """Keep asking until `is_over`."""
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(self._keep_asking, number)

    async def _keep_asking(self, number: int) -> None:
        load = self.clients.load
        chance = random.Random(f"{load.seed} questions {number}")
        process = self.history.new_process()
        async with self.clients.client("questions", chance) as client:
            while not self.is_over:
                await trio.sleep(chance.expovariate(1 / PAUSE_SECONDS))
                kind = chance.choices(("end", "committed", "status", "transfer"), (8, 3, 2, 0.15))
                if not await self._ask(client.admin, kind[0], process, chance):
                    process = self.history.new_process()

    async def _ask(self, admin: Admin, f: str, p: int, chance: random.Random) -> bool:
        history = self.history
        queue = chance.randrange(self.clients.load.queue_count)
        group = f"g{chance.randint(1, self.clients.load.group_count)}"
        fields: dict[str, object] = {}
        if f in ("end", "committed"):
            fields["k"] = queue
        if f == "committed":
            fields["g"] = group
        history.add(p, "invoke", f, **fields)  # type: ignore[arg-type]
        answer: int | None = None
        try:
            with trio.fail_after(8):
                if f == "end":
                    answer = await admin.max_offset(TOPIC, queue)
                elif f == "committed":
                    answer = await admin.committed_offset(group, TOPIC, queue)
                elif f == "status":
                    answer = (await admin.group_status()).term
                else:
                    await admin.transfer_leadership()
        except RequestFailedError as error:
            history.add(p, "fail", f, err=str(error), **fields)  # type: ignore[arg-type]
            return True
        except (ClientError, BrokerError, trio.TooSlowError) as error:
            history.add(p, "info", f, err=str(error), **fields)  # type: ignore[arg-type]
            return False
        history.add(p, "ok", f, o=answer, **fields)  # type: ignore[arg-type]
        return True

"""Whether a group is as fast after minutes as it was at first: ``python -m bench.steady``.

One load goes on for two minutes, a figure for each five seconds, with what the nodes keep in
memory. The log is bounded, so that what retention does is in the figures as well.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import trio

import broker
from bench import raw_load
from bench.frames import FrameRing
from bench.group import BenchGroup
from bench.measured import LoadError
from bench.plan import LOADS, QUEUE_COUNT, Kind
from bench.scratch import check_writable, scratch_folder
from broker.cli.local_group import GroupPlan
from broker.cli.output import first_leaf
from dledger.config import GIB, MIB, FlushDiskType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.plan import Load
    from broker.config import NodeConfig

TOPIC = "steady"
SLICE_SECONDS = 5.0
_LOG_SIZE_MAX = 4 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyPlan(GroupPlan):
    """A local group that keeps its log short."""

    def configs(self) -> list[NodeConfig]:
        """See `GroupPlan`."""
        # Not by super(): the class that `slots` makes is another than the one super() looks for.
        return [
            replace(config, store=replace(config.store, log_size_max=_LOG_SIZE_MAX))
            for config in GroupPlan.configs(self)
        ]


def measure(
    folder: Path, load: Load, *, flush: FlushDiskType, body_size: int, seconds: float
) -> dict[str, Any]:
    """Run *load* for so long with a new group in *folder*; return the figures.

    Raises:
        LoadError: a send was refused, or the nodes differ afterwards.
    """
    try:
        return trio.run(_run, folder, load.fitted(body_size), flush, body_size, seconds)
    except BaseExceptionGroup as error:
        cause = first_leaf(error)
        if not isinstance(cause, LoadError):
            raise
        raise cause from error


async def _run(
    folder: Path, load: Load, flush: FlushDiskType, body_size: int, seconds: float
) -> dict[str, Any]:
    group = BenchGroup(folder, flush=flush, segment_size=256 * MIB, plan_class=SteadyPlan)
    chance = random.Random(body_size)
    ring = FrameRing(
        topic=TOPIC,
        queue_count=QUEUE_COUNT,
        body_size=body_size,
        batch_count=load.batch_count,
        producer_id=chance.getrandbits(63) or 1,
        chance=chance,
        frame_count_min=load.in_flight,
    )
    slices: list[dict[str, float]] = []
    try:
        await group.start()
        async with broker.connect(group.addresses) as client:
            await client.admin.create_topic(TOPIC, queue_count=QUEUE_COUNT)
        host, port = await group.leader_address()
        began = perf_counter()
        with raw_load.connect(host, port) as connected:
            while perf_counter() - began < seconds:
                before = group.cpu_seconds_by_node()
                measured = await trio.to_thread.run_sync(
                    lambda: raw_load.run_sends(
                        connected,
                        ring,
                        in_flight=load.in_flight,
                        batch_count=load.batch_count,
                        seconds=SLICE_SECONDS,
                        warm_up_seconds=0.0,
                    )
                )
                spent = await group.cpu_seconds_since(before)
                slices.append(
                    {
                        "at": round(perf_counter() - began, 1),
                        "rate": round(measured.rate, 1),
                        "p99_ms": round(measured.p99, 2),
                        "leader_us": 1e6 * spent[0] / measured.written_count,
                        "rss_mib": max(await group.rss()) / MIB,
                    }
                )
                print(
                    f"  {slices[-1]['at']:5.0f} s  {measured.rate:10,.0f}/s  p99 "
                    f"{measured.p99:6.1f} ms  leader {slices[-1]['leader_us']:5.2f} us  "
                    f"RSS {slices[-1]['rss_mib']:.0f} MiB",
                    flush=True,
                )
        await group.wait_until_equal()
    finally:
        with trio.CancelScope(shield=True):
            await group.stop()
    shutil.rmtree(folder)
    return {
        "load": load.name,
        "flush": flush.value,
        "body_size": body_size,
        "slices": slices,
        **decay(
            [each["rate"] for each in slices],
            [each["leader_us"] for each in slices],
            seconds=slices[-1]["at"],
        ),
        "rss_mib": max(each["rss_mib"] for each in slices),
    }


def decay(rates: Sequence[float], costs: Sequence[float], *, seconds: float) -> dict[str, float]:
    """Return how the last third of a run stands to the first, and the slope of its rate.

    ``rate_ratio`` and ``cost_ratio`` are of medians, the last third's divided by the first's; a
    machine that others use as well shows in the rate, and much less in the cost.
    ``percent_a_minute`` is the slope of a line through all rates.
    """
    third = max(1, len(rates) // 3)
    slope = 0.0
    if len(rates) > 1:
        slope = float(np.polyfit(np.linspace(0, seconds / 60, len(rates)), rates, 1)[0])
    return {
        "rate_first": median(rates[:third]),
        "rate_last": median(rates[-third:]),
        "rate_ratio": median(rates[-third:]) / median(rates[:third]),
        "cost_ratio": median(costs[-third:]) / median(costs[:third]),
        "percent_a_minute": 100 * slope / median(rates),
    }


@click.command()
@click.option(
    "--load",
    "name",
    type=click.Choice([load.name for load in LOADS if load.kind is Kind.RAW]),
    default="raw-1000",
)
@click.option("--seconds", type=click.FloatRange(10), default=120.0)
@click.option("--body", type=click.IntRange(1, 1 << 20), default=100, help="Size of bodies.")
@click.option("--flush", type=click.Choice(["sync", "async"]), default="async")
@click.option("--data", type=click.Path(path_type=Path), help="Folder for the nodes' data.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures there.")
def main(
    name: str, seconds: float, body: int, flush: str, data: Path | None, json_path: Path | None
) -> None:
    """Send for two minutes and see whether the last third is as fast as the first."""
    check_writable(json_path)
    load = next(load for load in LOADS if load.name == name)
    kind = FlushDiskType(f"{flush.upper()}_FLUSH")
    with scratch_folder("dledger-steady-", where=data) as folder:
        try:
            found = measure(folder, load, flush=kind, body_size=body, seconds=seconds)
        except LoadError as error:
            print(f"stopped: {error}", file=sys.stderr)
            sys.exit(1)
    print(
        f"{name}: {found['rate_first']:,.0f}/s in the first third, {found['rate_last']:,.0f}/s in "
        f"the last: {found['rate_ratio']:.2f}x, {found['percent_a_minute']:+.1f} % a minute; "
        f"leader's processor time a message {found['cost_ratio']:.2f}x"
    )
    if json_path is not None:
        json_path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

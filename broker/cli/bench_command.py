"""``dledger bench``: how fast a group is from here, measured with the client that users have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import trio

from broker.cli import exits
from broker.cli.bench_load import DRAIN_SECONDS, STAMP_SIZE, Load, LoadPlan, Result, read_to_end
from broker.cli.completing import TOPIC
from broker.cli.output import format_bytes, json_option, print_json, remark
from broker.cli.servers import group_options
from broker.cli.values import DURATION, SIZE, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_TOPIC = "dledger-bench"
QUEUE_COUNT = 8
SECONDS_MAX = 3600.0
SIZE_MAX = 4 * 1024 * 1024
IN_FLIGHT_MAX = 1_000


def _load_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--secs", "seconds", type=DURATION, default="10", show_default=True, metavar="DURATION",
            help="How long, at most an hour.",
        ),
        click.option(
            "--rate", type=click.FloatRange(min=0), default=0, show_default=True,
            help="Messages a second; 0: as fast as it goes.",
        ),
        click.option(
            "--size", type=SIZE, default="1k", show_default=True, help="Bytes of a body."
        ),
        click.option(
            "--in-flight", type=click.IntRange(1, 100_000), default=IN_FLIGHT_MAX,
            show_default=True, help="Messages under way at once.",
        ),
        click.option(
            "-q", "--queues", type=click.IntRange(1, 1024), default=QUEUE_COUNT, show_default=True,
            help="Queues of the topic, if it has to be made.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


_topic_option = click.option(
    "--topic", type=TOPIC, default=DEFAULT_TOPIC, show_default=True, help="Topic to use."
)


@click.group()
def bench() -> None:
    """Measure how fast a group is from here.

    Example: dledger bench e2e --size 1k --rate 2000 --secs 10
    """


@bench.command()
@_load_options
@_topic_option
@json_option
@group_options
def produce(
    *,
    servers: list[str],
    topic: str,
    queues: int,
    in_flight: int,
    size: int,
    rate: float,
    seconds: float,
    as_json: bool,
) -> None:
    """Send messages; the time of each is that until its acknowledgement.

    Example: dledger bench produce --rate 2000 --secs 10
    """
    plan = _plan(topic, queues, in_flight, size, rate, seconds)
    _run(Load(servers, plan, is_received=False), as_json=as_json)


@bench.command()
@_load_options
@_topic_option
@json_option
@group_options
def e2e(
    *,
    servers: list[str],
    topic: str,
    queues: int,
    in_flight: int,
    size: int,
    rate: float,
    seconds: float,
    as_json: bool,
) -> None:
    """Send messages and receive them; the time of each is that until it was received.

    Example: dledger bench e2e --size 1k --rate 2000 --secs 10
    """
    plan = _plan(topic, queues, in_flight, size, rate, seconds)
    _run(Load(servers, plan, is_received=True), as_json=as_json)


@bench.command()
@click.option(
    "--secs", "seconds", type=DURATION, default="10", show_default=True, metavar="DURATION",
    help="How long at most.",
)  # fmt: skip
@_topic_option
@json_option
@group_options
def consume(*, servers: list[str], topic: str, seconds: float, as_json: bool) -> None:
    """Read a topic from its beginning to its end, and commit nothing.

    Example: dledger bench consume --topic orders
    """
    result = Result(kind="consume", servers=servers, topic=topic, body_size=0, rate_wanted=0)
    trio.run(read_to_end, result, min(seconds, SECONDS_MAX))
    _tell(result, as_json=as_json)


def _plan(
    topic: str, queues: int, in_flight: int, size: int, rate: float, seconds: float
) -> LoadPlan:
    if not 0 < seconds <= SECONDS_MAX:
        raise click.BadParameter("allowed are 1ms to 1h", param_hint="--secs")
    if not 2 * STAMP_SIZE <= size <= SIZE_MAX:
        allowed = f"allowed are {2 * STAMP_SIZE} bytes to 4 MiB"
        raise click.BadParameter(allowed, param_hint="--size")
    return LoadPlan(
        topic=topic,
        body_size=size,
        rate=rate,
        seconds=seconds,
        in_flight=in_flight,
        queue_count=queues,
    )


def _run(load: Load, *, as_json: bool) -> None:
    trio.run(load.run)
    _tell(load.result, as_json=as_json)
    if load.result.failed or load.result.lost or not load.result.count:
        raise SystemExit(exits.FAILURE)


def _tell(result: Result, *, as_json: bool) -> None:
    rate = result.count / result.seconds if result.seconds else 0.0
    latency = result.latency
    if as_json:
        print_json(
            {
                "kind": result.kind,
                "topic": result.topic,
                "body_bytes": result.body_size,
                "rate_wanted": result.rate_wanted,
                "seconds": round(result.seconds, 3),
                "messages": result.count,
                "failed": result.failed,
                "lost": result.lost,
                "messages_per_second": round(rate, 1),
                "bytes_per_second": round(rate * result.body_size),
                "flush_disk_type": result.flush,
                "nodes": result.nodes,
                "latency_seconds": {
                    "p50": round(latency.quantile(0.5), 6),
                    "p99": round(latency.quantile(0.99), 6),
                    "p999": round(latency.quantile(0.999), 6),
                    "max": round(latency.seconds_max, 6),
                }
                if latency.count
                else None,
            }
        )
        return
    wanted = f", {result.rate_wanted:,.0f}/s wanted" if result.rate_wanted else ""
    print(
        f"{result.kind}: {result.count:,} messages of {format_bytes(result.body_size)} in "
        f"{result.seconds:.1f} s: {rate:,.0f}/s, {format_bytes(round(rate * result.body_size))}/s"
        f"{wanted}"
    )
    if latency.count:
        print(
            "latency: "
            + "  ".join(
                f"{name} {format_duration(value)}"
                for name, value in (
                    ("p50", latency.quantile(0.5)),
                    ("p99", latency.quantile(0.99)),
                    ("p999", latency.quantile(0.999)),
                    ("max", latency.seconds_max),
                )
            )
        )
    print(f"{result.nodes} nodes, {result.flush or 'nobody leads'}; topic {result.topic}")
    if result.failed:
        remark(f"{result.failed:,} failed; the first: {result.first_error}")
    if result.lost:
        remark(f"{result.lost:,} were acknowledged and not received within {DRAIN_SECONDS:g} s")

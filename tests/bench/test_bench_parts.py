"""What the benchmark sends is what a client would send, and its figures are what it measured."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bench.frames import FrameRing
from bench.measured import Line, Measured, Round
from bench.plan import LOADS, Kind, Plan, choose, of_other_sizes
from broker.protocol.send_headers import SendRecordsRequest
from broker.store.chunk import check_chunk
from dledger.config import KIB, MIB
from dledger.remoting.connection import Connection


def ring(*, batch_count: int = 1, frame_count_min: int = 10) -> FrameRing:
    return FrameRing(
        topic="t",
        queue_count=4,
        body_size=100,
        batch_count=batch_count,
        producer_id=9,
        chance=random.Random(1),
        frame_count_min=frame_count_min,
    )


@pytest.mark.parametrize("batch_count", [1, 256])
def test_frames_are_sound_and_number_each_queue_without_a_gap(batch_count: int) -> None:
    frames = ring(batch_count=batch_count)
    connection = Connection()
    following = [0] * 4
    opaque = 0

    for count in (3, 1, frames.frame_count, 2, frames.frame_count - 1):
        for view in frames.take(count):
            connection.receive_data(bytes(view))
        for command in connection.commands():
            header = SendRecordsRequest.decode(command.ext_fields)
            assert not isinstance(command.body, list)
            chunk = check_chunk(command.body, header.sizes, topic="t", queue_id=header.queue_id)
            assert command.opaque == opaque
            assert header.sequence == following[header.queue_id]
            assert chunk.record_count == batch_count
            opaque += 1
            following[header.queue_id] += batch_count

    assert opaque == frames.next_opaque


def test_frames_go_to_all_queues_of_all_topics_and_number_each() -> None:
    frames = FrameRing(
        topic=["t1", "t2"],
        queue_count=200,  # beyond what msgpack writes with one byte
        body_size=10,
        batch_count=1,
        producer_id=9,
        chance=random.Random(1),
        frame_count_min=1,
    )
    connection = Connection()
    for _ in range(2):
        for view in frames.take(400):
            connection.receive_data(bytes(view))

    sent = []
    for command in connection.commands():
        header = SendRecordsRequest.decode(command.ext_fields)
        assert not isinstance(command.body, list)
        check_chunk(command.body, header.sizes, topic=header.topic, queue_id=header.queue_id)
        sent.append((header.topic, header.queue_id, header.sequence))

    assert sorted(sent) == [
        (topic, queue, sequence)
        for topic in ("t1", "t2")
        for queue in range(200)
        for sequence in (0, 1)
    ]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_no_load_has_more_under_way_than_nodes_take(load) -> None:
    for body_size in (100, 1024, 64 * KIB, MIB):
        fitted = load.fitted(body_size)
        if fitted.kind is Kind.RAW:
            frame = fitted.batch_count * (body_size + 256)
            assert fitted.batch_count == 1 or frame <= 2 * MIB
            assert fitted.in_flight == 1 or fitted.in_flight * frame <= 16 * MIB
    assert load.fitted(100).name == load.name


def test_big_bodies_have_few_loads_and_those_read_what_was_written() -> None:
    plan = Plan()
    big = plan.loads_for(64 * KIB)
    assert 0 < len(big) < len(plan.loads_for(100)) == len(LOADS)
    assert plan.seconds_least < 3600
    assert [each.node_count for each in of_other_sizes(plan)] == [1, 5]
    assert all(each.seconds_least < plan.seconds_least / 5 for each in of_other_sizes(plan))
    for load in LOADS:
        assert load.is_sending or load.topic == "bench-busy" or load.topic.endswith("-queues")


def test_a_ring_holds_as_many_frames_as_are_taken_at_once() -> None:
    assert ring(frame_count_min=5001).frame_count >= 5001


def test_a_name_means_that_load_and_only_else_those_that_begin_with_it() -> None:
    assert [load.name for load in choose("raw-1")] == ["raw-1"]
    assert [load.name for load in choose("send,raw-b")] == [
        "raw-batch-32",
        "raw-batch-256",
        "raw-batch-1000",
        "send-1",
        "send-256",
        "send-1000",
    ]
    assert [load.name for load in choose("consume")] == ["consume"]
    with pytest.raises(ValueError, match="'nothing'; there are raw-1"):
        choose("nothing")
    assert choose(",".join(load.name for load in LOADS)) == LOADS


def test_a_line_is_the_median_of_its_rounds() -> None:
    rounds = [
        Round(
            measured=Measured.of(
                message_count=count,
                seconds=2.0,
                latencies=np.array([0.001, 0.002, 0.003]),
                written_count=count,
            ),
            node_cpu_us=(count, 1.0, 3.0),
            client_cpu_us=2.0,
            rss=count,
        )
        for count in (10, 1000, 20)
    ]

    line = Line.of("raw-1", 100, "SYNC_FLUSH", rounds)

    assert line.rate == 10.0
    assert line.rates == (5.0, 500.0, 10.0)
    assert line.p50 == pytest.approx(2.0)
    assert line.node_cpu_us == (20, 1.0, 3.0)
    assert line.cpu_text == "20.0 / 1.0 / 3.0"
    assert line.rss == 1000  # the most, not the median

from __future__ import annotations

import importlib
import zlib

import lz4.frame
import pytest
import zstandard

import broker
from broker.client.compression import UNPACKED_SIZE_MAX, make_compressor, unpack

LONG = b"a long text that says the same thing over and over again. " * 200
WAYS = {"zlib": 0x301, "lz4": 0x101, "zstd": 0x201}


@pytest.mark.parametrize(("name", "flag"), WAYS.items())
def test_what_one_side_packs_the_other_unpacks(name, flag):
    system_flag, compress = make_compressor(name, None)
    packed = compress(LONG)

    assert system_flag == flag
    assert len(packed) < len(LONG) / 10
    assert unpack(packed, flag, what="it") == LONG


@pytest.mark.parametrize("name", WAYS)
def test_nothing_at_all_can_be_packed_too(name):
    flag, compress = make_compressor(name, None)
    assert unpack(compress(b""), flag, what="it") == b""


def test_streams_as_java_writes_them_are_unpacked():
    """RocketMQ's compressors write streams, which do not say how long they are."""
    packer = zstandard.ZstdCompressor().compressobj()
    packed = packer.compress(LONG) + packer.flush()
    assert zstandard.frame_content_size(packed) == -1
    assert unpack(packed, 0x201, what="it") == LONG

    with lz4.frame.LZ4FrameCompressor() as frames:
        packed = frames.begin() + frames.compress(LONG) + frames.flush()
    assert unpack(packed, 0x101, what="it") == LONG


def bomb(name):
    size = UNPACKED_SIZE_MAX + 1
    if name == "zlib":
        return zlib.compress(bytes(size), 1)
    if name == "lz4":
        return lz4.frame.compress(bytes(size))
    if name == "zstd":
        return zstandard.ZstdCompressor().compress(bytes(size))
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(bytes(size)) + packer.flush()


@pytest.mark.parametrize("name", [*WAYS, "zstd stream"])
def test_a_body_that_would_grow_without_measure_is_refused(name):
    flag = WAYS[name.partition(" ")[0]]
    with pytest.raises(broker.CorruptBodyError, match=f"it: .* more than {UNPACKED_SIZE_MAX}"):
        unpack(bomb(name), flag, what="it")


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_damage_is_told_and_the_message_named(name, damage):
    flag, compress = make_compressor(name, None)
    packed = compress(LONG)[:-5] if damage == "cut" else b"this is no such thing"
    with pytest.raises(broker.CorruptBodyError, match="topic t"):
        unpack(packed, flag, what="topic t")


def test_a_way_nobody_knows_is_named():
    with pytest.raises(broker.CorruptBodyError, match="0x701"):
        unpack(b"?", 0x701, what="it")


@pytest.mark.parametrize(("name", "module"), [("lz4", "lz4.frame"), ("zstd", "zstandard")])
def test_what_is_not_installed_is_named_with_its_extra(name, module, monkeypatch):
    stock = importlib.import_module

    def without(wanted, *rest):
        if wanted == module:
            raise ImportError(wanted)
        return stock(wanted, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(broker.MissingExtraError, match=rf"pip install 'dledger\[{name}\]'"):
        make_compressor(name, None)
    with pytest.raises(ImportError, match=rf"it: {name} needs"):
        unpack(b"?", WAYS[name], what="it")


@pytest.mark.parametrize(("name", "level"), [("snappy", None), ("zlib", 10), ("zstd", 99)])
def test_ways_and_levels_that_are_none_are_refused(name, level):
    with pytest.raises(ValueError, match=r"zlib|zstd has -7 to 22"):
        make_compressor(name, level)


@pytest.mark.parametrize("name", WAYS)
async def test_large_bodies_travel_compressed_and_arrive_whole(
    name, group, connect, autojump_clock
):
    async with connect() as mq:
        async with mq.producer(compression=name, compression_threshold=100) as producer:
            for body in (LONG, b"short", bytes(range(256))):  # the last one only grows
                await producer.send("orders", body, queue=1, key="k", tag="A")
        stored = group.stored("orders")[1]
        async with mq.consumer("billing", "orders", queues=[1]) as consumer:
            found = [await anext(consumer) for _ in range(3)]

    assert [message.body for message in found] == [LONG, b"short", bytes(range(256))]
    assert [message.system_flag for message in stored] == [WAYS[name], 0, 0]
    assert len(stored[0].body) < 1000
    assert (found[0].key, found[0].tag) == ("k", "A")
    assert "compressed" in repr(found[0])


async def test_bodies_below_the_threshold_are_left_alone(group, connect, autojump_clock):
    async with connect() as mq, mq.producer(compression="zlib") as producer:
        await producer.send("orders", b"x" * 4095, queue=0)
        await producer.send("orders", b"x" * 4096, queue=0)
    assert [message.system_flag for message in group.stored("orders")[0]] == [0, 0x301]

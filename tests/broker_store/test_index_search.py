"""Searching the key index: everything with a hash, newest first, wherever it lies."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from broker.message.codec import decode_record
from broker.store.append_state import AppendState
from broker.store.derived import DerivedState
from broker.store.index_keys import key_hash, keys_of
from broker.store.index_search import IndexSearch, SearchRange
from broker.store.record_finder import record_at
from dledger.errors import CorruptStoreError
from dledger.store.os_disk import OsDisk
from tests.broker_store.derived_node import (
    CountingMachine,
    drop_first_segments,
)
from tests.broker_store.growing_disk import GrowingDisk
from tests.broker_store.helpers import (
    FixedClock,
    MemoryLog,
    NothingDispatched,
    append_group,
    make_chunk,
    new_group,
)

EVER = 1 << 62


def search(node, topic, key, *, begin=0, end=EVER, before=EVER, count=7):
    wanted = SearchRange(key_hash(topic, key), begin, end, before)
    found = IndexSearch(OsDisk(), node.derived.key_index, wanted)
    result = []
    while found.has_more:
        some = found.next_positions(count)
        assert len(some) <= count
        result += some
    return result


def records(node):
    """All records that can be read, by the consume queues."""
    for begin, end, units in node.everything()[1].values():
        for at in range(0, 20 * (end - begin), 20):
            position = int.from_bytes(units[at : at + 8], "big")
            size = int.from_bytes(units[at + 8 : at + 12], "big")
            yield decode_record(node.log.bytes_at(position, size))


def by_topic_and_key(node):
    found = {}
    for message in records(node):
        for key in set(keys_of(bytes(message.encoded_properties))):
            found.setdefault((message.topic, key.decode()), []).append(message)
    for messages in found.values():
        messages.sort(key=lambda message: message.position)
    return found


@pytest.mark.parametrize("where", ["in memory", "in files", "after a start", "some of both"])
def test_every_key_leads_to_all_its_records(node, log, where):
    if where == "some of both":
        node.catch_up(log.end_index // 2)
        node.run_jobs(with_state=True)
    node.catch_up()
    if where in ("in files", "after a start"):
        node.run_jobs(with_state=True)
    if where == "after a start":
        node.start()
        assert node.derived.dispatched_index == log.end_index
    index = node.derived.key_index
    assert bool(index.sealed) is not (where == "in memory")
    found = {}
    for topic in ("a", "b", "%RETRY%g"):
        for key in (*(f"k{number}" for number in range(50)), "käse", "none"):
            found[topic, key] = search(node, topic, key, count=random.Random(1).randint(1, 9))

    expected = by_topic_and_key(node)
    assert sum(map(len, found.values())) > 100
    for (topic, key), positions in found.items():
        wanted = [message.position for message in expected.get((topic, key), [])]
        # Another key may have the same hash; in this log none has.
        assert positions == wanted[::-1], (topic, key)


def test_every_unique_id_leads_to_its_record(node):
    node.catch_up()
    node.run_jobs(with_state=True)
    expected = {
        pair: messages for pair, messages in by_topic_and_key(node).items() if len(pair[1]) == 32
    }
    assert len(expected) > 100
    for (topic, key), messages in expected.items():
        assert search(node, topic, key) == [message.position for message in messages]


def test_times_and_places_bound_what_is_found(node):
    node.catch_up()
    node.run_jobs(with_state=True)
    (topic, key), messages = max(by_topic_and_key(node).items(), key=lambda item: len(item[1]))
    assert len(messages) > 20
    times = [message.store_timestamp_ms for message in messages]
    for begin, end in ((times[3], times[9]), (0, times[5]), (times[8] + 1, EVER), (5, 9)):
        found = search(node, topic, key, begin=begin, end=end)
        wanted = [m.position for m in messages if begin <= m.store_timestamp_ms <= end]
        assert set(wanted) <= set(found)
        for position in set(found) - set(wanted):
            # The index tells seconds; who asks looks at the record.
            (time,) = (m.store_timestamp_ms for m in messages if m.position == position)
            assert begin - 1000 < time < end + 1000
    place = messages[10].position
    assert search(node, topic, key, before=place) == [m.position for m in messages[:10]][::-1]


@pytest.mark.parametrize("links", [1, 3, 10_000])
def test_a_long_chain_is_followed_or_its_file_read_through(node, links, monkeypatch):
    monkeypatch.setattr("broker.store.index_search.LINKS_MAX", links)
    monkeypatch.setattr("broker.store.index_search._SCAN_ENTRIES", 17)
    monkeypatch.setattr("broker.store.index_search._BLOCK_ENTRIES", 5)
    node.catch_up()
    node.run_jobs(with_state=True)
    for (topic, key), messages in by_topic_and_key(node).items():
        if len(messages) > 5:
            expected = [message.position for message in messages][::-1]
            assert search(node, topic, key) == expected
            assert search(node, topic, key, count=1000) == expected


def test_a_go_opens_a_bounded_number_of_files(node, monkeypatch):
    monkeypatch.setattr("broker.store.index_search.FILES_PER_GO", 1)
    node.catch_up()
    node.run_jobs(with_state=True)
    wanted = SearchRange(key_hash("a", "nobody's"), 0, EVER, EVER)
    found = IndexSearch(OsDisk(), node.derived.key_index, wanted)

    goes = 0
    while found.has_more:
        assert found.next_positions(10) == []
        goes += 1
    sealed = len(node.derived.key_index.sealed)
    assert sealed > 10
    assert goes in (sealed, sealed + 1), "the last file's slot may be known to be empty"


def test_what_retention_took_is_not_found(node):
    node.catch_up()
    node.run_jobs(with_state=True)
    before = by_topic_and_key(node)
    wanted = SearchRange(key_hash("a", "k1"), 0, EVER, EVER)
    begun = IndexSearch(OsDisk(), node.derived.key_index, wanted)
    drop_first_segments(node)

    for (topic, key), messages in before.items():
        expected = [m.position for m in messages if m.position >= node.log.base.position]
        assert search(node, topic, key) == expected[::-1]
    found = []
    while begun.has_more:  # its files are gone under it
        found += begun.next_positions(5)
    assert set(found) <= {message.position for message in before["a", "k1"]}


@pytest.mark.parametrize(
    ("offset_from_end", "data", "said"),
    [
        (-4, b"\x7f\xff\xff\xff", "is said to come behind"),  # the last entry's previous one
        (None, b"", "it ends before entry"),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(node, offset_from_end, data, said):
    node.catch_up()
    node.run_jobs(with_state=True)
    info = node.derived.key_index.sealed[0]
    path = Path(info.path)
    content = bytearray(path.read_bytes())
    hashed, position = content[-20:-16], int.from_bytes(content[-16:-8], "big")
    if offset_from_end is None:
        del content[-40:]
    else:
        content[offset_from_end:] = data
    path.write_bytes(content)
    wanted = SearchRange(int.from_bytes(hashed, "big"), 0, EVER, position + 1)
    found = IndexSearch(OsDisk(), node.derived.key_index, wanted)

    def search_on():
        while found.has_more:
            found.next_positions(1000)

    with pytest.raises(CorruptStoreError, match=said) as caught:
        search_on()

    assert info.path in str(caught.value)
    assert "derived/keyindex" in str(caught.value)


# -- a record by its place ----------------------------------------------------------------------


def test_a_place_is_a_record_s_or_none(node, log):
    node.catch_up()
    places = {message.position: message for message in records(node)}
    queues = node.derived.queues
    for position in range(-5, 20_000):
        found = record_at(log, queues, position)
        assert (found is not None) == (position in places), position
        if found is not None:
            message = places[position]
            assert (found.topic, found.queue_id) == (message.topic, message.queue_id)
            assert found.queue_offset == message.queue_offset
            assert found.store_timestamp_ms == message.store_timestamp_ms
            assert found.encoded_properties == bytes(message.encoded_properties)
            assert decode_record(found.view).body == message.body
    for position in (log.end.position, log.end.position - 1, 1 << 62, -(1 << 62)):
        assert record_at(log, queues, position) is None


def test_a_record_inside_a_body_is_none():
    """Whoever sends may know where the body will lie, and put a record of any queue there."""
    log = MemoryLog()
    state = AppendState(NothingDispatched(), log)
    put(log, state, [b"first"], topic="orders")
    size = int.from_bytes(log.bytes_at(48, 4), "big")
    real = log.bytes_at(48, size)
    body_at = log.end.position + 48 + 88
    forged = bytearray(real[:size])
    forged[28:36] = body_at.to_bytes(8, "big")
    put(log, state, [bytes(forged)], topic="mine")
    node_queues = dispatched(log)

    assert record_at(log, node_queues, 48) is not None
    assert log.bytes_at(body_at, 4) == forged[:4]
    assert record_at(log, node_queues, body_at) is None


def put(log, state, bodies, topic):
    group = new_group(state, FixedClock())
    group.add_chunk(make_chunk(bodies, topic=topic))
    return append_group(log, group)


def dispatched(log):
    return open_derived(GrowingDisk(), "/d", log).queues


def test_old_messages_of_a_frequent_key_are_found_without_walking_all_newer_ones(
    tmp_path, monkeypatch
):
    """Links with the hash and of another time counted as found, and the walk began anew each time.

    Of a file with 200,000 newer ones that took seconds.
    """
    log = MemoryLog(segment_size=1 << 20)
    state, clock = AppendState(NothingDispatched(), log), FixedClock()
    for _ in range(300):
        clock.ms += 2000
        group = new_group(state, clock)
        group.add_chunk(make_chunk([b"x"], properties={"KEYS": "k"}))
        append_group(log, group)
    derived = open_derived(OsDisk(), str(tmp_path), log)
    for job in derived.begin_jobs(with_state=True):
        job.run()
        job.finish()
    opened = []
    stock = OsDisk.open_file

    def open_file(self, path):
        opened.append(path)
        return stock(self, path)

    monkeypatch.setattr(OsDisk, "open_file", open_file)
    wanted = SearchRange(key_hash("orders", "k"), 0, clock.ms - 299 * 2000, EVER)

    found = IndexSearch(OsDisk(), derived.key_index, wanted).next_positions(1)

    assert found == [48]
    assert len(opened) == 1
    derived.close()


def open_derived(disk, folder, log):
    derived = DerivedState.open(
        disk, folder, log, commit_index=0, segment_size=1 << 20, metadata=CountingMachine()
    )
    while derived.dispatched_index < log.end_index:
        derived.dispatch_up_to(log.end_index)
    return derived

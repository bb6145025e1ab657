"""Which keys a record has, and how they are hashed: by column and one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.message.batch import encode_sizes
from broker.message.codec import encode_record
from broker.store.append_state import AppendState
from broker.store.chunk import check_chunk
from broker.store.derived import DerivedState
from broker.store.dispatch import DISPATCH_KEY_COST
from broker.store.index_keys import KEYS_MAX, RawKeys, key_hash, keys_of, take_keys
from broker.store.runs import RunReader
from dledger.store.os_disk import OsDisk
from tests.broker_store.derived_node import (
    CountingMachine,
)
from tests.broker_store.helpers import (
    MemoryLog,
    NothingDispatched,
    append_group,
    make_chunk,
    new_group,
)


@pytest.mark.parametrize(
    ("topic", "key", "expected"),
    [
        ("", "", 35),
        ("t", "k", 116 * 31**2 + 35 * 31 + 107),
        ("TopicJ", "k1", 0x7FFFFFFF),
    ],
)
def test_a_hash_is_java_s_without_its_sign(topic, key, expected):
    if topic == "TopicJ":
        signed = 0
        for unit in "TopicJ#k1":
            signed = (31 * signed + ord(unit)) & 0xFFFFFFFF
        expected = abs(signed - (1 << 32) if signed >> 31 else signed)

    assert key_hash(topic, key) == expected


def test_the_one_number_without_an_absolute_value_is_0(monkeypatch):
    monkeypatch.setattr("broker.store.index_keys.string_hash", lambda _: -(1 << 31))
    assert key_hash("t", "k") == 0


def test_what_keys_a_record_has():
    many = " ".join(f"k{n}" for n in range(100))

    assert keys_of(b"") == []
    assert keys_of(b"UNIQ_KEY\x01\x02KEYS\x01") == []
    assert keys_of(b"KEYS\x01a  b \x02UNIQ_KEY\x01U") == [b"U", b"a", b"b"]
    assert keys_of(b"KEYS\x01a\x02KEYS\x01b") == [b"b"], "the last one counts"
    assert keys_of(b"MYKEYS\x01a\x02x\x01KEYS") == []
    assert len(keys_of(b"KEYS\x01" + many.encode())) == KEYS_MAX


_UNIQUE = st.one_of(
    st.from_regex(r"\A[0-9A-F]{32}\Z"),
    st.sampled_from(["", "short", "käse" * 8, "0" * 33, "a b" + "c" * 29, "K" * 32]),
)
_KEY = st.sampled_from(
    ["", "k", "k1", "key-2", "a b", " a", "käse", "KEYS", "x" * 200, "UNIQ_KEY", "\x03"]
)
_PROPERTIES = st.lists(
    st.one_of(
        st.tuples(st.just("UNIQ_KEY"), _UNIQUE),
        st.tuples(st.sampled_from(["KEYS", "TAGS", "MYKEYS", "a"]), _KEY),
    ),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(
    first=st.one_of(st.none(), _UNIQUE),
    each=st.lists(_PROPERTIES, min_size=32, max_size=40),
    alike=st.booleans(),
)
def test_by_column_or_one_by_one_the_keys_are_the_same(first, each, alike):
    """Whichever way is taken; with a unique id in front, as our client writes it, or without."""
    if alike:
        each = [each[0]] * len(each)
    encoded = []
    for number, own in enumerate(each):
        own = ([] if first is None else [("UNIQ_KEY", first)]) + own
        pieces = [f"{name}\x01{value}" for name, value in own]
        encoded.append("\x02".join(pieces).encode() + (b"\x02" if number % 3 == 0 else b""))
    run, body = run_with(encoded)

    raw = RawKeys()
    batch = take_keys(run, body, raw)
    hashes, positions, _ = raw.take() if batch is None else batch

    expected = [
        (key_hash("orders", key.decode("utf-8", "replace")), number)
        for number, properties in enumerate(encoded)
        for key in keys_of(properties)
    ]
    places = np.frombuffer(run.units, ">i8,>i4,>i8")["f0"].tolist()
    assert [*zip(hashes.tolist(), positions.tolist(), strict=True)] == [
        (hashed, places[number]) for hashed, number in expected
    ]


def run_with(encoded_properties):
    """One run of records with these properties, and the entry's body."""
    records = [
        encode_record(topic=b"orders", queue_id=0, body=b"b", properties=own)
        for own in encoded_properties
    ]
    log = MemoryLog()
    group = new_group(AppendState(NothingDispatched(), log))
    sizes = encode_sizes([len(record) for record in records])
    group.add_chunk(check_chunk(b"".join(records), sizes, topic="orders", queue_id=0))
    entry = append_group(log, group)
    (run,) = RunReader().runs(entry.body, entry.body_position)
    return run, entry.body


def test_the_usual_layouts_go_by_column():
    """Not by one key at a time, which takes ten times as long."""
    unique = "UNIQ_KEY\x01" + "0123456789ABCDEF" * 2
    key = "\x02KEYS\x01k{}"
    for rest in ("", key, key + "\x02TAGS\x01A", "\x02a\x011" + key):
        run, body = run_with([(unique + rest.format(n)).encode() for n in range(90, 130)])
        raw = RawKeys()
        batch = take_keys(run, body, raw)
        assert batch is not None, rest
        assert len(raw) == 0
        assert len(batch) == (80 if "KEYS" in rest else 40)


def test_keys_looked_at_one_by_one_count_for_the_budget_of_a_go(tmp_path):
    """64 keys in 300 bytes: dispatch must not keep the loop for as long as they take."""
    log = MemoryLog(segment_size=1 << 20)
    state = AppendState(NothingDispatched(), log)
    properties = {"KEYS": " ".join(f"k{n}" for n in range(64))}
    for _ in range(20):
        group = new_group(state)
        group.add_chunk(make_chunk([b"x"] * 10, properties=properties))
        append_group(log, group)
    derived = DerivedState.open(
        OsDisk(), str(tmp_path), log, commit_index=0, segment_size=1 << 20,
        metadata=CountingMachine(),
    )  # fmt: skip

    derived.dispatch_up_to(log.end_index, size_max=2 * 640 * DISPATCH_KEY_COST)
    assert derived.dispatched_index == 2
    derived.close()

"""Java's hash of long strings, and what long keys may cost a node."""

from __future__ import annotations

import pytest

from broker.message.tags import java_string_hash
from broker.store.hashing import LONG_MIN, string_hash
from broker.store.index_keys import hashes_of, key_hash
from broker.store.key_index import KeyIndex, shape_for
from broker.testing.memory_disk import NodeDisk

LENGTHS = [0, 1, LONG_MIN - 1, LONG_MIN, LONG_MIN + 1, 1000, 32_000]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("letters", ["key-", "kä€", "\U0001f4e6x", "\ufffd"])
def test_a_hash_of_any_length_is_java_s(letters: str, length: int) -> None:
    text = (letters * (length // len(letters) + 1))[:length]
    assert string_hash(text) == java_string_hash(text)


def test_hashes_by_column_are_those_of_one_key_each() -> None:
    keys = [b"k" * length for length in (1, 5, 300, 5000)] * 20
    topics = ["a", "b"] * 40
    assert hashes_of(topics, keys).tolist() == [
        key_hash(topic, key.decode()) for topic, key in zip(topics, keys, strict=True)
    ]


def test_long_keys_do_not_gather_until_they_take_seconds() -> None:
    """4096 keys of 32 KB were hashed in one go: seconds of the event loop, gigabytes of memory."""
    index = KeyIndex(NodeDisk(), "/index", shape_for(1 << 26), segment_size=1 << 26)
    most = 0
    for number in range(40):
        index._raw.add("t", [b"k" * 32_000], number, 0)
        most = max(most, index._raw.size)
        index._unsettled += 1
        index._settle_if_due()
    assert most <= 256 * 1024 + 32_000

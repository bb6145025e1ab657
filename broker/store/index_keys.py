"""The keys of records, and their hashes, as the key index takes them in.

A record is found by its unique id (UNIQ_KEY) and by each of its keys (KEYS, blanks between them).
What stands in the index is a hash of ``topic#key``: RocketMQ's, Java's ``String.hashCode`` without
its sign.

Both ways below give the same: record by record, or by column where a run is long and every record
has its unique id first, as our own client writes it.  A run without properties costs one look.

Source: RocketMQ ``IndexService.buildIndex``, ``IndexFile.indexKeyHashMethod``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from broker.message import properties as names
from broker.message.properties import find_property
from broker.store.columns import COLUMN_MIN, UNIT, gather
from broker.store.hashing import powers, string_hash
from broker.store.runs import UNIT_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.store.columns import IntArray
    from broker.store.hashing import HashArray
    from broker.store.runs import RecordRun

KEYS_MAX = 64  # of one message; 32 KiB of properties could hold 16,000, each 20 bytes of index

_UNIQUE_KEY = names.UNIQUE_KEY.encode()
_KEYS = names.KEYS.encode()
_UNIQUE_NAME = _UNIQUE_KEY + b"\x01"
_KEYS_NAME = _KEYS + b"\x01"
_POSITION = struct.Struct(">q")
_SEPARATOR = 2
_BLANK = 0x20
_UNIQUE_END = len(_UNIQUE_NAME) + 32  # of a unique id of our client's, which has 32 digits
_KEYS_START = b"\x02" + _KEYS_NAME
_COLUMN_SIZE_MAX = 256  # bytes of properties; longer ones are looked at record by record

_ByteTable = np.ndarray[Any, np.dtype[np.uint8]]
_BoolTable = np.ndarray[Any, np.dtype[np.bool_]]


class KeyBatch(NamedTuple):
    """Hashes for the index, in order; all of one store time."""

    hashes: HashArray  # of topic and key, 31 bits
    positions: IntArray  # of the record each key belongs to
    store_timestamp_ms: int

    def __len__(self) -> int:
        return len(self.hashes)


class RawKeys:
    """Keys of short runs, gathered until they are worth hashing by column."""

    def __init__(self) -> None:
        self.size = 0  # bytes of all keys
        self._keys: list[bytes] = []
        self._topics: list[str] = []
        self._positions: list[int] = []
        self._times: list[int] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, topic: str, keys: list[bytes], position: int, store_timestamp_ms: int) -> None:
        """Add the keys of one record."""
        count = len(keys)
        self.size += sum(map(len, keys))
        self._keys += keys
        self._topics += [topic] * count
        self._positions += [position] * count
        self._times += [store_timestamp_ms] * count

    def take(self) -> tuple[HashArray, IntArray, IntArray]:
        """Return hashes, positions and store times of all keys so far, and forget them."""
        hashes = hashes_of(self._topics, self._keys)
        positions = np.array(self._positions, np.int64)
        times = np.array(self._times, np.int64)
        self._keys, self._topics, self._positions, self._times = [], [], [], []
        self.size = 0
        return hashes, positions, times


def key_hash(topic: str, key: str) -> int:
    """Return the hash under which a record of *topic* with *key* stands in the index."""
    return _without_sign(string_hash(f"{topic}#{key}"))


def keys_of(encoded_properties: bytes) -> list[bytes]:
    """Return the unique id and the keys of a record, in the order in which they are indexed."""
    unique = find_property(encoded_properties, _UNIQUE_KEY)
    keys = find_property(encoded_properties, _KEYS)
    found = [] if not unique else [unique]
    if keys:
        found += [key for key in keys.split(b" ") if key]
    return found[:KEYS_MAX]


def take_keys(run: RecordRun, body: memoryview, raw: RawKeys) -> KeyBatch | None:
    """Take the keys of *run*, which lies in *body*: by column, or one by one into *raw*.

    Returns:
        What comes behind everything that is in *raw*; None when *raw* has got it, or there is
        nothing.
    """
    begins, ends = run.properties_begins, run.properties_ends
    if len(begins) == 0:
        return None
    if run.record_count >= COLUMN_MIN:
        begins, ends = np.asarray(begins, np.int64), np.asarray(ends, np.int64)
        if not (begins < ends).any():
            return None
        batch = _by_column(run, body, begins, ends)
        if batch is not None:
            return batch
    if isinstance(begins, np.ndarray) and isinstance(ends, np.ndarray):
        begins, ends = begins.tolist(), ends.tolist()
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin < end:
            keys = keys_of(bytes(body[begin:end]))
            if keys:
                (position,) = _POSITION.unpack_from(run.units, number * UNIT_SIZE)
                raw.add(run.topic, keys, position, run.store_timestamp_ms)
    return None


def _by_column(
    run: RecordRun, body: memoryview, begins: IntArray, ends: IntArray
) -> KeyBatch | None:
    """Return the keys of *run* if all its records have one unique id, first, and at most one key.

    None when they are laid out otherwise.
    """
    sizes = ends - begins
    width = int(sizes.max())
    if int(sizes.min()) < _UNIQUE_END or width > _COLUMN_SIZE_MAX:
        return None
    table = _table(body, begins, width)
    if int(sizes.min()) < width:
        table[np.arange(width) >= sizes[:, None]] = _SEPARATOR
    if not (
        _all_equal(table[:, : len(_UNIQUE_NAME)], _UNIQUE_NAME)
        and _is_plain(table[:, len(_UNIQUE_NAME) : _UNIQUE_END])
        and (width == _UNIQUE_END or (table[:, _UNIQUE_END] == _SEPARATOR).all())
    ):
        return None
    flat = table.tobytes()
    count = run.record_count
    if flat.count(_UNIQUE_NAME) != count:
        return None
    positions = np.frombuffer(run.units, UNIT)["position"].astype(np.int64)
    seed = np.uint32(_seed(run.topic))
    unique = _column_hashes(
        table[:, len(_UNIQUE_NAME) : _UNIQUE_END], np.full(count, 32, np.int64), seed
    )
    keys_count = flat.count(_KEYS_NAME)
    if keys_count == 0:
        return KeyBatch(unique, positions, run.store_timestamp_ms)
    if keys_count != count:
        return None
    keys = _only_keys(table, flat)
    if keys is None:
        return None
    return KeyBatch(
        np.column_stack((unique, _column_hashes(*keys, seed))).ravel(),
        np.repeat(positions, 2),
        run.store_timestamp_ms,
    )


def _only_keys(table: _ByteTable, flat: bytes) -> tuple[_ByteTable, IntArray] | None:
    """Return the one key in each row of *table*, and its length; None if any has not just one."""
    count, width = table.shape
    places = width - len(_KEYS_START) + 1
    found = np.ones((count, places), bool)
    for at, byte in enumerate(_KEYS_START):
        found &= table[:, at : at + places] == byte
    if (found.sum(axis=1) != 1).any():
        return None
    begins = found.argmax(axis=1) + len(_KEYS_START)
    # A separator behind each row ends the keys that reach its end.
    rows = np.arange(count) * width
    keys = gather(flat + bytes([_SEPARATOR]) * width, rows + begins, width)
    keys = keys.view(np.uint8).reshape(count, width)
    is_end = keys == _SEPARATOR
    lengths = np.minimum(np.where(is_end.any(axis=1), is_end.argmax(axis=1), width), width - begins)
    keys = keys[:, : int(lengths.max())]
    within = np.arange(keys.shape[1]) < lengths[:, None]
    if not lengths.all() or not _is_plain(np.where(within, keys, ord("x"))):
        return None
    return keys, lengths


def _table(body: memoryview, begins: IntArray, width: int) -> _ByteTable:
    """Return *width* bytes from each of *begins* on, a row each; zeros beyond the body."""
    first = int(begins[0])
    last = int(begins[-1])
    if last + width <= len(body):
        found = gather(body, begins, width)
    else:
        padded = bytes(body[first:]) + bytes(width)
        found = gather(padded, begins - first, width)
    return found.view(np.uint8).reshape(len(begins), width)


def _all_equal(table: _ByteTable, expected: bytes) -> bool:
    return bool((table == np.frombuffer(expected, np.uint8)).all())


def _is_plain(table: _ByteTable) -> bool:
    """Whether there is nothing but ASCII without separators and blanks."""
    return bool(((table > _BLANK) & (table < 0x80)).all())


def _seed(topic: str) -> int:
    """Return the hash of ``topic#``, which is how every string of that topic begins."""
    return string_hash(f"{topic}#") & 0xFFFFFFFF


def _column_hashes(table: _ByteTable, lengths: IntArray, seed: np.uint32) -> HashArray:
    """Return the hashes of the first *lengths* bytes of each row, which are ASCII."""
    width = table.shape[1]
    known = powers(width)
    if (lengths == width).all():
        weights = known[width - 1 :: -1] if width else known[:0]
    else:
        exponents = lengths[:, None] - 1 - np.arange(width)
        weights = np.where(exponents >= 0, known[np.maximum(exponents, 0)], np.uint32(0))
    sums = (table * weights).sum(axis=1, dtype=np.uint32)
    return _without_signs(sums + known[lengths] * seed)


def hashes_of(topics: Sequence[str], keys: Sequence[bytes]) -> HashArray:
    """Return the hash of each of *keys*, which are as records have them, with its topic."""
    flat = b"".join(keys)
    if len(keys) < COLUMN_MIN or not flat.isascii():
        return np.array(
            [
                key_hash(topic, key.decode("utf-8", "replace"))
                for topic, key in zip(topics, keys, strict=True)
            ],
            np.uint32,
        )
    seeds = {topic: _seed(topic) for topic in set(topics)}
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    known = powers(int(lengths.max()))
    ends = np.cumsum(lengths)
    weights = known[np.repeat(ends, lengths) - 1 - np.arange(len(flat))]
    products = np.frombuffer(flat, np.uint8) * weights
    sums = np.add.reduceat(products, ends - lengths, dtype=np.uint32)
    seed = np.fromiter(map(seeds.__getitem__, topics), np.uint32, len(keys))
    return _without_signs(sums + known[lengths] * seed)


def _without_sign(value: int) -> int:
    """Return Java's ``Math.abs`` of a hash, and 0 for the one number that has none."""
    return 0 if value == -(1 << 31) else abs(value)


def _without_signs(hashes: HashArray) -> HashArray:
    negative = hashes >= np.uint32(1 << 31)
    result: HashArray = np.where(negative, np.uint32(0) - hashes, hashes)
    result[result == np.uint32(1 << 31)] = 0
    return result

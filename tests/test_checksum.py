"""One CRC-32, whoever computes it."""

from __future__ import annotations

import importlib
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger import checksum


@given(st.binary(max_size=300), st.integers(0, 0xFFFFFFFF), st.integers(0, 40))
def test_it_is_that_of_zlib(data, before, start):
    view = memoryview(data)[start:]
    assert checksum.crc32(view, before) == zlib.crc32(view, before)
    assert checksum.crc32(view) == zlib.crc32(view)


def test_a_megabyte_in_parts_is_the_same():
    data = bytes(range(251)) * 4200
    assert checksum.crc32(data[1000:], checksum.crc32(data[:1000])) == zlib.crc32(data)


def test_where_isal_has_no_wheel_zlib_does_it():
    with pytest.MonkeyPatch.context() as without:
        without.setitem(sys.modules, "isal.isal_zlib", None)
        reloaded = importlib.reload(checksum)
        assert reloaded.CRC_BY == "zlib"
        assert reloaded.crc32 is zlib.crc32
    assert importlib.reload(checksum).CRC_BY == "isal"

"""Inputs near enough to valid ones that readers come far before something is wrong."""

from __future__ import annotations

from hypothesis import strategies as st

# (where, as a share of the whole; how many bytes go; what comes in their place)
_EDIT = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 8),
    st.binary(max_size=8)
    | st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xc1", b"["]),
)


def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for share, count, new in edits:
        at = int(share * (len(data) + 1))
        data = data[:at] + new + data[at + count :]
    return data


def near(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return seeds with a few edits, two seeds joined, and plain noise."""
    one = st.sampled_from(seeds)
    changed = st.builds(edited, one, st.lists(_EDIT, min_size=1, max_size=4))
    joined = st.builds(lambda a, b, n: a[: n % (len(a) + 1)] + b, one, one, st.integers(0, 10_000))
    return changed | joined | st.binary(max_size=200)

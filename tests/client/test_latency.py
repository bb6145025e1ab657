"""The histogram of a producer that lives in another thread."""

from __future__ import annotations

import sys

import pytest

from broker.client.latency import SINGLE_COUNT_MAX, LatencyHistogram


@pytest.mark.parametrize("count", [1, SINGLE_COUNT_MAX, 2 * SINGLE_COUNT_MAX + 3])
def test_who_reads_between_two_lines_of_the_writer_takes_nothing_away(count):
    """As another thread may: a reader emptied the list that a time was just appended to."""
    times = LatencyHistogram()
    seen = []

    def read(frame, event, _arg):
        if frame.f_code is not LatencyHistogram.add_batch.__code__:
            return None
        if event == "line":
            sys.settrace(None)
            seen.append(times.count)
            times.quantile(0.5)
            assert times.seconds_sum == pytest.approx(2.0 * times.count)
            sys.settrace(read)
        return read

    before = sys.gettrace()
    try:
        for _ in range(count):
            sys.settrace(read)
            times.add_batch([1.0], 3.0)
            sys.settrace(before)
    finally:
        sys.settrace(before)

    assert seen == sorted(seen)
    assert times.count == count
    assert times.seconds_sum == pytest.approx(2.0 * count)

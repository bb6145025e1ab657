"""Distributions kept as counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger.measures import Histogram


@given(st.lists(st.floats(0, 100)))
def test_each_value_is_counted_at_every_bound_that_is_not_below_it(values):
    histogram = Histogram((1.0, 10.0, 50.0))

    for value in values:
        histogram.observe(value)

    expected = [sum(value <= bound for value in values) for bound in histogram.bounds]
    assert histogram.cumulative() == [*expected, len(values)]
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))


def test_a_value_may_come_many_times_at_once():
    histogram = Histogram((1.0,))

    histogram.observe(0.5, times=4)

    assert (histogram.count, histogram.sum) == (4, 2.0)

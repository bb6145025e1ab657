"""A slope says by what power a cost grows, and what is called superlinear is."""

from __future__ import annotations

import pytest

from bench.growth.axes import AXES, choose_axes
from bench.growth.fit import Column, number, slope_of
from bench.growth.table import GrowthTable

EACH = Column(name="us")
ALL = Column(name="s", allowed=1.0)


def slope(column: Column, cost) -> str:
    found = slope_of(column, {x: cost(x) for x in (1, 10, 100, 1000)})
    assert found is not None
    return found.verdict


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_slope_is_the_power(power):
    found = slope_of(ALL, {x: 3 * x**power for x in (10, 100, 1000)})
    assert found is not None
    assert found.overall == pytest.approx(power)
    assert found.last == pytest.approx(power)


def test_what_grows_by_more_than_is_right_is_named():
    assert slope(EACH, lambda x: 7.0) == ""
    assert slope(EACH, lambda x: x**0.5) == "GROWS"
    assert slope(ALL, lambda x: x) == ""
    assert slope(ALL, lambda x: x**1.5) == "SUPERLINEAR"
    # A constant hides what grows until it is the larger part.
    assert slope(EACH, lambda x: 4000 + x**1.3) == "rises at the end"
    assert slope(EACH, lambda x: min(x, 50)) == "grew, levels off"
    assert slope(Column(name="p50 ms", allowed=None), lambda x: x**2) == ""


def test_what_lies_below_the_floor_of_a_cost_is_noise():
    column = Column(name="idle ms/s", floor=5.0)
    assert slope(column, lambda x: 0.001 * x) == ""


def test_one_point_has_no_slope():
    assert slope_of(EACH, {10: 1.0}) is None
    assert slope_of(EACH, {0: 1.0, 10: 1.0}) is None


def test_a_table_has_a_column_for_each_cost_and_tells_what_it_found():
    table = GrowthTable(
        axis="topics",
        note="how",
        columns=(EACH, ALL, Column(name="never measured")),
        rows=((1, {"us": 2.0, "s": 1.0}), (100, {"us": 20.0, "s": 90.0})),
    )
    lines = table.markdown().splitlines()
    assert lines[2] == "| topics | us | s |"
    assert lines[4] == "| 1 | 2.0 | 1.0 |"
    assert lines[6].startswith("| slope, at the end | +0.50, +0.50 **GROWS** | +0.98")
    assert table.findings == [
        "topics: us grows; slope 0.50 over all and 0.50 at the end, 0 is right"
    ]
    assert table.as_json()["slopes"]["us"]["verdict"] == "GROWS"


def test_axes_are_chosen_by_name():
    assert [axis.name for axis in choose_axes("topics, groups")] == ["topics", "groups"]
    assert choose_axes(None) == list(AXES)
    with pytest.raises(ValueError, match="'nothing' grows; there are messages, topics"):
        choose_axes("nothing")


def test_numbers_are_short():
    assert [number(value, 1) for value in (12345.6, 12.34, 0.004)] == ["12,346", "12.3", "0.004"]

"""The demonstration's verdict finds every way in which it may have gone wrong."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "examples" / "demo_verdict.py"
SPEC = importlib.util.spec_from_file_location("demo_verdict", PATH)
demo_verdict = importlib.util.module_from_spec(SPEC)
sys.modules["demo_verdict"] = demo_verdict
SPEC.loader.exec_module(demo_verdict)

Place, Row, judge = demo_verdict.Place, demo_verdict.Row, demo_verdict.judge

ROWS = [Row(number, f"day {number // 4}", "month", b"%d" % number) for number in range(12)]
PLACES = [Place(row.number, row.number // 4, row.number % 4) for row in ROWS]
READERS = ("n1", "n2", "n3", "consumer")


def judged(*, at="n2", found=None, acknowledged=PLACES, foreign=0, logs_identical=True):
    places = dict.fromkeys(READERS, PLACES) | ({at: found} if found is not None else {})
    return judge(
        rows=ROWS,
        acknowledged=acknowledged,
        found=places,
        foreign={at: foreign},
        logs_identical=logs_identical,
    )


def test_all_rows_everywhere_once_in_order_is_clean():
    verdict = judged()

    assert verdict.is_clean
    assert (verdict.sent, verdict.acknowledged, verdict.details) == (12, 12, ())


@pytest.mark.parametrize("at", READERS)
def test_a_row_that_one_reader_lacks_is_lost(at):
    verdict = judged(at=at, found=PLACES[:5] + PLACES[6:])

    assert verdict.lost == 1
    assert not verdict.is_clean
    assert verdict.details == (f"{at}: 1 lost, row 5 first",)


def test_a_row_found_twice_is_duplicated():
    verdict = judged(found=[*PLACES, Place(2, 0, 4)])

    assert verdict.duplicated == 1
    assert not verdict.is_clean


def test_a_row_behind_a_later_one_of_its_key_is_out_of_order():
    swapped = [PLACES[1], PLACES[0], *PLACES[2:]]

    verdict = judged(found=swapped)

    assert verdict.out_of_order == 1
    assert not verdict.is_clean


def test_rows_of_different_keys_may_come_in_any_order():
    assert judged(found=PLACES[8:] + PLACES[4:8] + PLACES[:4]).is_clean


def test_a_row_in_another_place_than_acknowledged_is_misplaced():
    moved = [Place(0, 0, 7), *PLACES[1:]]

    assert judged(found=moved).misplaced == 1
    # An offset of -1 is the honest answer "it is written, I forgot where".
    assert judged(acknowledged=[Place(0, 0, -1), *PLACES[1:]]).is_clean


def test_a_message_nobody_sent_a_missing_ack_and_different_logs_are_not_clean():
    assert not judged(foreign=1).is_clean
    assert not judged(acknowledged=PLACES[1:]).is_clean
    assert not judged(logs_identical=False).is_clean


def test_the_longest_gap_is_that_around_the_kill():
    times = [0.0, 2.0, 2.1, 2.2, 2.6, 2.7, 5.0]

    gap = demo_verdict.longest_gap(times, since=2.3, until=2.65)

    assert gap == pytest.approx(0.4)
    assert demo_verdict.longest_gap([], since=0, until=1) == 0

"""A member far behind is sent the old at a pace, while there is anything new."""

from dledger.raft.pace import Pace

PIECE = 3_000


def paced(*, appended, took=0.010):
    """One piece sent at 0 and promised after *took*, *appended* bytes having come meanwhile."""
    pace = Pace()
    pace.sent(10, size=PIECE, end=50_000, now=0.0)
    pace.acknowledged(10, end=50_000 + appended, now=took)
    return pace


def allows(pace, *, end, now, is_idle=True):
    return pace.allows(end=end, is_idle=is_idle, now=now)


def test_a_piece_is_followed_by_a_rest_as_long_as_it_took():
    pace = paced(appended=100)

    assert not allows(pace, end=50_100, now=0.019)
    assert allows(pace, end=50_100, now=0.020)


def test_answers_that_tell_nothing_new_do_not_make_the_rest_longer():
    pace = paced(appended=100)

    pace.acknowledged(10, end=50_200, now=0.018)

    assert pace.resting_until == 0.020


def test_two_thirds_of_a_piece_appended_let_the_next_one_go_at_once():
    pace = paced(appended=1_999)

    assert not allows(pace, end=51_999, now=0.011)
    assert allows(pace, end=52_000, now=0.011)
    assert allows(pace, end=52_000, now=0.011, is_idle=False)


def test_nobody_rests_while_nothing_is_appended():
    pace = paced(appended=0)

    assert allows(pace, end=50_000, now=0.011, is_idle=False)


def test_what_is_appended_meanwhile_keeps_a_second_piece_back():
    pace = paced(appended=0)
    pace.sent(20, size=PIECE, end=50_000, now=0.011)

    assert not allows(pace, end=50_001, now=0.012, is_idle=False)


def test_a_member_that_is_sent_what_is_new_rests_no_more():
    pace = paced(appended=100)

    pace.forget()

    assert allows(pace, end=50_100, now=0.011)

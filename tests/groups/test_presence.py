"""When a client counts as gone."""

from broker.config import BrokerConfig
from broker.groups.presence import HEARTBEAT_SECONDS, Member, Presence

SILENT_SECONDS_MAX = BrokerConfig().client_silent_max_ms / 1000

ALL = frozenset({"n1", "n2", "n3"})
C, D, DEAD, ALIVE = (Member(client_id, "g") for client_id in ("c", "d", "dead", "alive"))


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return self.seconds

    def wall_ms(self):
        return 0


def presence():
    clock = Clock()
    return Presence(clock, silent_seconds_max=SILENT_SECONDS_MAX), clock


def test_a_client_is_gone_with_the_last_of_its_connections():
    found, _ = presence()
    found.heard(C, "n1")
    found.heard(C, "n2")

    assert not found.lost(C, "n1", reachable=ALL)
    assert found.lost(C, "n2", reachable=ALL)


def test_a_node_that_is_gone_holds_no_connection():
    found, _ = presence()
    found.heard(C, "n1")
    found.heard(C, "n2")

    assert found.lost(C, "n2", reachable=ALL - {"n1"})


def test_a_silent_client_is_gone_after_its_time():
    found, clock = presence()
    found.heard(C, "n1")
    clock.seconds = SILENT_SECONDS_MAX - 1
    found.heard(D, "n1")
    assert found.take_silent() == []

    clock.seconds = SILENT_SECONDS_MAX + 1
    assert found.take_silent() == [C]
    assert found.take_silent() == []


def test_a_new_leader_gives_everybody_the_time_to_be_heard():
    found, clock = presence()
    clock.seconds = 1000.0
    found.begin([C])
    clock.seconds += SILENT_SECONDS_MAX - 1

    assert found.take_silent() == []


def test_a_connection_lost_before_the_client_was_heard_gives_it_one_heartbeat():
    found, clock = presence()
    found.begin([C, D])

    assert not found.lost(C, "n1", reachable=ALL)
    assert not found.lost(D, "n1", reachable=ALL)
    clock.seconds = HEARTBEAT_SECONDS - 1
    found.heard(D, "n2")
    clock.seconds = HEARTBEAT_SECONDS + 1

    assert found.take_silent() == [C]


def test_who_could_not_be_let_go_is_silent_still_and_the_others_are_as_they_were():
    found, clock = presence()
    found.heard(DEAD, "n1")
    clock.seconds = SILENT_SECONDS_MAX + 1
    found.heard(ALIVE, "n1")
    assert found.take_silent() == [DEAD]

    found.stayed(DEAD)
    clock.seconds += 1
    assert found.take_silent() == [DEAD]
    clock.seconds += SILENT_SECONDS_MAX
    assert found.take_silent() == [ALIVE]


def test_who_could_not_be_let_go_may_come_back():
    found, clock = presence()
    found.stayed(C)
    clock.seconds = 1
    found.heard(C, "n1")

    assert found.take_silent() == []


def test_a_client_is_heard_in_each_of_its_groups_by_itself():
    found, clock = presence()
    other = Member(C.client_id, "h")
    found.heard(C, "n1")
    found.heard(other, "n1")

    assert found.lost(C, "n1", reachable=ALL)
    found.forget(C)
    clock.seconds = SILENT_SECONDS_MAX + 1
    assert found.take_silent() == [other]

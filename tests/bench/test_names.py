"""What a name server can serve is reckoned from what its work costs."""

from __future__ import annotations

import dataclasses

from bench.names import BROKERS_MAX, HEADS, Measured, _questions, _registrations, row_of
from broker.protocol.name_headers import RegisterBrokerRequest
from broker.protocol.registration import decode_registration
from dledger.remoting.connection import Connection

FOUND = Measured(
    topic_count=10, first_us=100.0, again_us=50.0, route_us=60.0, route_size=800, kib_a_group=6.0
)


def test_half_a_processor_is_shared_by_registrations_and_questions():
    # 15 s of processor time in each 30 s.
    assert FOUND.groups_at_most(questions_a_group=0) == 15_000_000 // 150
    assert FOUND.groups_at_most(questions_a_group=1000) == int(15_000_000 / (150 + 60_000))
    assert FOUND.questions_at_most() == 250_000
    dearer = dataclasses.replace(FOUND, route_us=600.0)
    assert dearer.groups_at_most(questions_a_group=1000) < 30
    assert len(row_of(FOUND)) == len(HEADS)
    assert BROKERS_MAX >= 3


def test_what_is_sent_is_what_nodes_and_clients_send():
    connection = Connection()
    for frame in _registrations(2, 5):
        connection.receive_data(frame)
    nodes = []
    for command in connection.commands():
        header = RegisterBrokerRequest.decode(command.ext_fields)
        assert not isinstance(command.body, list)
        table = decode_registration(command.body, compressed=False).table
        assert len(table) == 5
        nodes.append((header.broker_name, header.node_id))
    assert nodes == [(f"group-{group}", f"n{node}") for group in (0, 1) for node in (1, 2, 3)]
    for frame in _questions(2, 5, 20):
        connection.receive_data(frame)
    asked = [command.ext_fields["topic"] for command in connection.commands()]
    assert len(asked) == 20
    assert len(set(asked)) == 10

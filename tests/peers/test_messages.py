"""Messages of the engine as frames: all there and back, and nothing else gets in."""

import pytest

from dledger.entry import LogPoint
from dledger.peers.messages import from_command, to_command
from dledger.protocol import PeerCode
from dledger.remoting.command import FLAG_ONEWAY, Command
from dledger.remoting.connection import Connection
from dledger.remoting.errors import RemoteProtocolError
from dledger.remoting.frame import encode_frame

BASE = LogPoint(index=5, term=2, position=4096, chain_crc=0xFFFFFFFF)
MESSAGES = [
    {"type": "request_vote", "term": 3, "last_log_index": 9, "last_log_term": 2},
    {"type": "response_vote", "term": 3},
    {"type": "pre_vote", "term": 3, "round": 8, "last_log_index": 9, "last_log_term": 2},
    {"type": "pre_vote_answer", "term": 3, "round": 8, "granted": True},
    {
        "type": "append_entries", "term": 3, "id": 4, "prev_index": 9, "prev_term": 2,
        "last_index": 11, "commit_index": 9, "entries": b"\x00\xffbytes",
    },
    {
        "type": "append_entries", "term": 3, "id": 4, "prev_index": 9, "prev_term": 2,
        "last_index": 11, "commit_index": 9, "entries": b"", "admit_index": -1,
    },
    {
        "type": "append_answer", "term": 3, "id": 4, "next_index": 12, "success": True,
        "reset": False, "joining": False,
    },
    {"type": "timeout_now", "term": 3},
    {
        "type": "install", "term": 3, "id": 4, "base": BASE, "offset": 0, "total": 5, "crc": 77,
        "data": b"state",
    },
    {
        "type": "install_answer", "term": 3, "id": 4, "base_index": 5, "offset": 5, "done": True,
        "joining": True,
    },
]  # fmt: skip


def through_the_wire(command):
    connection = Connection()
    connection.receive_data(b"".join(bytes(part) for part in encode_frame(command)))
    (received,) = connection.commands()
    return received


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["type"])
def test_a_message_comes_out_as_it_went_in(message):
    received = from_command(through_the_wire(to_command(dict(message))))

    for body in ("entries", "data"):
        if body in received:
            received[body] = bytes(received[body])
    assert received == message


def test_every_code_for_messages_is_among_them():
    codes = {to_command(dict(message)).code for message in MESSAGES}

    greetings = {PeerCode.HELLO, PeerCode.HELLO_ANSWER, PeerCode.PING}
    assert codes == {int(code) for code in PeerCode} - {int(code) for code in greetings}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["type"])
def test_a_message_without_one_of_its_fields_is_refused_by_name(message):
    whole = to_command(dict(message))
    for name in whole.ext_fields:
        if name == "admit_index":
            continue
        fields = {key: value for key, value in whole.ext_fields.items() if key != name}
        with pytest.raises(RemoteProtocolError, match=f"{message['type']}: field {name}"):
            from_command(Command(whole.code, FLAG_ONEWAY, ext_fields=fields))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["type"])
@pytest.mark.parametrize("wrong", [None, "3", 3.0, -5, b"3", [1]], ids=repr)
def test_a_field_of_the_wrong_type_is_refused_by_name(message, wrong):
    """Also a bool for a number: Python would count with it."""
    whole = to_command(dict(message))
    for name in whole.ext_fields:
        if name == "admit_index" and wrong == -5:
            continue
        fields = {**whole.ext_fields, name: wrong}
        with pytest.raises(RemoteProtocolError, match=f"field {name}"):
            from_command(Command(whole.code, FLAG_ONEWAY, ext_fields=fields))


def test_a_bool_is_no_number():
    with pytest.raises(RemoteProtocolError, match="term is bool, not int"):
        from_command(Command(int(PeerCode.VOTE_ANSWER), ext_fields={"term": True}))


@pytest.mark.parametrize("code", [0, 10, int(PeerCode.HELLO), -1, 99999])
def test_an_unknown_code_is_refused(code):
    with pytest.raises(RemoteProtocolError, match=f"code {code} is no message between peers"):
        from_command(Command(code, ext_fields={"term": 1}))


@pytest.mark.parametrize("base", [[], [1, 2, 3], [1, 2, 3, -4], [1, 2, 3, "4"], [1, 2, 3, 4, 5]])
def test_a_base_that_is_no_point_is_refused(base):
    install = to_command(dict(MESSAGES[-2]))
    install.ext_fields["base"] = base

    with pytest.raises(RemoteProtocolError, match="field base"):
        from_command(install)

"""How a message is printed."""

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.cli.message_output import FIELDS, MessageFormat, MessagePrinter, message_json, printable
from broker.cli.values import format_time


def message(**changes):
    fields = {
        "topic": "orders",
        "queue_id": 3,
        "queue_offset": 17,
        "keys": ("k1", "k2"),
        "tag": "T",
        "body": b"two chairs",
        "properties": {"KEYS": "k1 k2", "TAGS": "T", "UNIQ_KEY": "AB", "a": "5", "b": "x"},
        "born_timestamp_ms": 1_764_081_000_000,
        "store_timestamp_ms": 1_764_081_000_005,
        "message_id": "7F" * 16,
        "unique_id": "AB",
    }
    return SimpleNamespace(**(fields | changes))


@pytest.mark.parametrize(
    ("layout", "line"),
    [
        ("%t %q %o %k %v", b"orders 3 17 k1 k2 two chairs"),
        (r"%T\t%S\n%u%%", b"T\t10\nAB%"),
        ("%p", b"a=5,b=x"),
        (r"\\%i", b"\\" + b"7F" * 16),
        ("%s", format_time(1_764_081_000_005).encode()),
        ("%b", format_time(1_764_081_000_000).encode()),
        ("plain", b"plain"),
        ("", b""),
    ],
)
def test_a_format_is_filled_in(layout, line):
    assert MessageFormat(layout).render(message()) == line


def test_a_body_of_bytes_stays_what_it_is():
    assert MessageFormat("%v").render(message(body=b"\xff\x00")) == b"\xff\x00"


@pytest.mark.parametrize("layout", ["%x", "%", r"\x", "\\"])
def test_what_stands_for_nothing_is_refused(layout):
    with pytest.raises(ValueError, match="stands for nothing"):
        MessageFormat(layout)


def test_json_has_the_message_without_what_is_the_broker_s():
    found = message_json(message())

    assert found["body"] == "two chairs"
    assert found["properties"] == {"a": "5", "b": "x"}
    assert (found["key"], found["tag"]) == (["k1", "k2"], "T")
    assert json.loads(json.dumps(found)) == found
    assert message_json(message(body=b"\xff"))["body_base64"] == base64.b64encode(b"\xff").decode()


def test_a_terminal_is_not_handed_over_to_whoever_sent_the_message():
    assert printable(b"\x1b[2Jgone\x07\ttab\nline \xff \xc3\xa4".strip()) == (
        "\ufffd[2Jgone\ufffd\ttab\nline \ufffd ä".encode()
    )


def test_a_pipe_gets_the_bytes(capsysbinary):
    MessagePrinter(as_json=False, layout=MessageFormat("%v")).print(message(body=b"\x1b\xff"))

    assert capsysbinary.readouterr().out == b"\x1b\xff\n"


def test_every_letter_is_in_the_page():

    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")

    for letter, (what, _) in FIELDS.items():
        assert re.search(rf"^\| `%{letter}` \| {what}( \(| \|)", page, re.MULTILINE), letter

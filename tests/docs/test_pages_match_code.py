"""The tables of protocol.md and file-formats.md say what the code says."""

import re
import struct
from dataclasses import fields
from pathlib import Path

import pytest

from broker.message import batch, codec
from broker.protocol import bodies, send_headers
from broker.protocol.header_fields import _plan
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.store import consume_queue
from dledger import entry
from dledger.peers import messages
from dledger.protocol import PeerCode
from dledger.store import entry_index, slot_file
from tests.fakes.request_headers import REQUEST_HEADERS

DOCS = Path(__file__).parents[2] / "docs"
PROTOCOL, _, BETWEEN_MEMBERS = (
    (DOCS / "protocol.md").read_text("utf-8").partition("## Between members")
)
FILES = (DOCS / "file-formats.md").read_text("utf-8")

# Told elsewhere on the page than in the table: see the tests of their own.
IN_THE_TABLE = {
    code: header
    for code, header in REQUEST_HEADERS.items()
    if code not in {RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE}
}


def row_of(page, code, name):
    """The row of a table that begins with a code and its name."""
    (row,) = re.findall(rf"^\| {code} \| {name} \|.*$", page, re.MULTILINE)
    return row


def words_of(text):
    return set(re.findall(r"\w+", text))


@pytest.mark.parametrize("code", RequestCode, ids=lambda code: code.name)
def test_every_request_has_its_row(code):
    row = row_of(PROTOCOL, code.value, code.name)

    header = IN_THE_TABLE.get(code)
    if header is not None:
        assert {field.wire_name for field in _plan(header)} <= words_of(row)


@pytest.mark.parametrize("code", RequestCode, ids=lambda code: code.name)
def test_what_may_be_left_out_stands_in_italics(code):
    header = IN_THE_TABLE.get(code)
    if header is None:
        return
    row = row_of(PROTOCOL, code.value, code.name)
    in_italics = words_of(" ".join(re.findall(r"\*([^*]+)\*", row)))
    plain = words_of(re.sub(r"\*[^*]+\*", "", row))

    for field in _plan(header):
        assert field.wire_name in (plain if field.is_required else in_italics), field.wire_name


def test_every_field_of_our_own_send_has_its_row():
    section = PROTOCOL.partition("recordFormat = 1**")[2].partition("**PULL_MESSAGE")[0]
    cells = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)

    assert set(send_headers._SEND_RECORDS_NAMES) <= words_of(" ".join(cells))


@pytest.mark.parametrize("code", ResponseCode, ids=lambda code: code.name)
def test_every_response_code_is_told(code):
    section = PROTOCOL.partition("## Response codes")[2].partition("\n## ")[0]
    numbers = {int(number) for number in re.findall(r"\d+", section)}
    for first, last in re.findall(r"(\d+) to (\d+)", section):
        numbers |= set(range(int(first), int(last) + 1))

    assert code.value in numbers


def test_a_status_has_the_fields_told():
    section = PROTOCOL.partition("GET_GROUP_STATUS tells")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(\w+)`", section))
    names = {item.name for item in fields(bodies.GroupStatus)}

    assert told == names | {item.name for item in fields(bodies.MemberStatus)}


def test_an_ack_is_laid_out_as_told():
    section = PROTOCOL.partition("## Grouped acks")[2].partition("\n## ")[0]
    sizes = [int(size) for size in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)]

    assert sizes == [4, 4, 4, 8, 8]
    assert sum(sizes) == bodies.ACK_SIZE


@pytest.mark.parametrize("code", PeerCode, ids=lambda code: code.name)
def test_every_message_between_members_has_its_row(code):
    row = row_of(BETWEEN_MEMBERS, code.value, code.name)

    for form in messages._FORMS.values():
        if form.code is code:
            assert {*form.fields, *form.optional} <= words_of(row)
            assert ("body:" in row) == (form.body is not None)


# --- files ----------------------------------------------------------------------------------------

_SIZES = {"i32": 4, "u32": 4, "i64": 8, "u64": 8, "4 + i32": 8, "8 bytes": 8}


def layout_after(text):
    """Rows (offset, type, field) of the first table behind *text* in file-formats.md."""
    _, found, rest = FILES.partition(text)
    assert found, text
    table = re.search(r"\| offset \| type \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", rest)[1]
    rows = [[cell.strip() for cell in row.split("|")[1:4]] for row in table.splitlines()]
    return [(int(offset), kind, name) for offset, kind, name in rows if offset and kind]


@pytest.mark.parametrize(
    ("text", "size", "code"),
    [
        ("An entry is a header of 48 bytes", entry.HEADER_SIZE, entry._HEADER),
        ("A producer mark may stand", batch.MARK_SIZE, batch._MARK),
        ("Code: `dledger/store/entry_index.py`", entry_index.UNIT_SIZE, entry_index._UNIT),
        ("Code: `broker/store/consume_queue.py`", consume_queue.UNIT_SIZE, consume_queue._UNIT),
        ("A record is RocketMQ's", codec.BODY_OFFSET, codec._HEAD_V4),
    ],
)
def test_a_layout_is_the_struct_of_the_code(text, size, code):
    rows = layout_after(text)
    at = 0
    for offset, kind, name in rows:
        assert offset == at, name
        at += _SIZES[kind]

    assert at == size == code.size


def test_the_fields_of_an_entry_are_named_in_their_order():
    names = [name for _, _, name in layout_after("An entry is a header of 48 bytes")]

    assert names == ["magic", *entry.EntryHeader.__struct_fields__[1:]]


def test_the_slots_are_where_the_page_says():
    section = FILES.partition("## vote, checkpoint, watermark")[2].partition("\n## ")[0]

    assert slot_file.SLOT_OFFSETS == (0, 4096)
    assert f"{slot_file.FILE_SIZE} bytes" in section
    assert f"{slot_file.SLOT_SIZE} bytes" in section
    sizes = re.findall(r"^\| (\d) \|", section, re.MULTILINE)
    assert sum(map(int, sizes)) == slot_file._HEAD.size + slot_file._CRC.size


def test_magic_numbers_are_those_of_the_code():
    for number in (codec.MAGIC_V1, codec.MAGIC_V2, batch.MARK_MAGIC):
        assert f"0x{number:08X}" in FILES
    assert struct.pack(">I", batch.MARK_MAGIC) == b"DPM1"

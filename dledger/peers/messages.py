"""Raft messages <-> frames: msgpack maps with checked fields, entries as raw bytes behind them.

The engine's messages are dicts with a ``type``.  Only the types listed here exist on the wire,
and each field is checked, because PySyncObj trusts what it is given (raft-engine.md, flaw o).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dledger.entry import LogPoint
from dledger.protocol import PeerCode
from dledger.remoting.command import FLAG_ONEWAY, Command
from dledger.remoting.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

Message = dict[str, Any]

_INT_MAX = (1 << 63) - 1  # terms, indexes and positions are int64 in the files


@dataclass(frozen=True, slots=True)
class _Form:
    code: PeerCode
    fields: Mapping[str, type]
    optional: Mapping[str, type]
    body: str | None = None  # the field that travels as the frame's body

    # The same, as a message needs it: a loop over these calls nothing.
    code_number: int = field(init=False)
    wanted: tuple[tuple[str, type], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "code_number", int(self.code))
        object.__setattr__(self, "wanted", tuple(self.fields.items()))


_FORMS: dict[str, _Form] = {
    "request_vote": _Form(
        PeerCode.VOTE, {"term": int, "last_log_index": int, "last_log_term": int}, {}
    ),
    "response_vote": _Form(PeerCode.VOTE_ANSWER, {"term": int}, {}),
    "pre_vote": _Form(
        PeerCode.PRE_VOTE,
        {"term": int, "round": int, "last_log_index": int, "last_log_term": int},
        {},
    ),
    "pre_vote_answer": _Form(
        PeerCode.PRE_VOTE_ANSWER, {"term": int, "round": int, "granted": bool}, {}
    ),
    "append_entries": _Form(
        PeerCode.PUSH,
        {
            "term": int,
            "id": int,
            "prev_index": int,
            "prev_term": int,
            "last_index": int,
            "commit_index": int,
        },
        {"admit_index": int, "sync_index": int, "tell_written": bool},
        "entries",
    ),
    "append_answer": _Form(
        PeerCode.PUSH_ANSWER,
        {
            "term": int,
            "id": int,
            "next_index": int,
            "success": bool,
            "reset": bool,
            "joining": bool,
        },
        {"written_index": int, "synced_index": int},
    ),
    "timeout_now": _Form(PeerCode.LEADERSHIP_TRANSFER, {"term": int}, {}),
    "install": _Form(
        PeerCode.INSTALL_SNAPSHOT,
        {"term": int, "id": int, "base": list, "offset": int, "total": int, "crc": int},
        {},
        "data",
    ),
    "install_answer": _Form(
        PeerCode.INSTALL_ANSWER,
        {
            "term": int,
            "id": int,
            "base_index": int,
            "offset": int,
            "done": bool,
            "joining": bool,
        },
        {},
    ),
}
_TYPE_OF_CODE = {form.code_number: kind for kind, form in _FORMS.items()}


def to_command(message: Message) -> Command:
    """Return *message* as a one-way command; raw bytes are not copied."""
    kind = message["type"]
    form = _FORMS[kind]
    fields = {}
    for name in form.fields:
        fields[name] = message[name]
    for name in form.optional:
        if name in message:
            fields[name] = message[name]
    if kind == "install":
        base: LogPoint = fields["base"]
        fields["base"] = [base.index, base.term, base.position, base.chain_crc]
    body = message[form.body] if form.body else b""
    return Command(form.code_number, FLAG_ONEWAY, ext_fields=fields, body=body)


def from_command(command: Command) -> Message:
    """Return the message a frame carries.

    Raises:
        RemoteProtocolError: an unknown code, or a field is missing, of the wrong type or outside
            of what the files can hold.
    """
    kind = _TYPE_OF_CODE.get(command.code)
    if kind is None:
        raise RemoteProtocolError(f"code {command.code} is no message between peers")
    form = _FORMS[kind]
    given = command.ext_fields or {}
    message: Message = {"type": kind}
    for name, wanted in form.wanted:
        if name not in given:
            raise RemoteProtocolError(f"{kind}: field {name} is missing")
        value = given[name]
        if type(value) is not wanted or (wanted is int and not 0 <= value <= _INT_MAX):  # type: ignore[operator]
            value = _checked(kind, name, value, wanted)
        message[name] = value
    if len(given) > len(form.wanted):
        for name, wanted in form.optional.items():
            if name in given:
                message[name] = _checked(kind, name, given[name], wanted)
    if form.body:
        message[form.body] = command.body
    if kind == "install":
        message["base"] = _base_from(message["base"])
    return message


def _checked(kind: str, name: str, value: object, wanted: type) -> object:
    if type(value) is not wanted:
        raise RemoteProtocolError(
            f"{kind}: field {name} is {type(value).__name__}, not {wanted.__name__}"
        )
    least = -1 if name == "admit_index" else 0
    if wanted is int and not least <= value <= _INT_MAX:  # type: ignore[operator]
        raise RemoteProtocolError(f"{kind}: field {name} = {value} is out of range")
    return value


def _base_from(value: list[object]) -> LogPoint:
    if len(value) != 4 or any(type(item) is not int or not 0 <= item <= _INT_MAX for item in value):
        raise RemoteProtocolError("install: field base is not four whole numbers")
    index, term, position, chain_crc = value
    return LogPoint(index=index, term=term, position=position, chain_crc=chain_crc)  # type: ignore[arg-type]

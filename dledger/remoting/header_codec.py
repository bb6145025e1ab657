"""The three ways to write a command's header, and what is refused when one is read.

    JSON      RocketMQ's default: compact, keys in fastjson's order, empty ones left out
    ROCKETMQ  code u16, language u8, version u16, opaque i32, flag i32, remark length i32, remark,
              ext length i32, then key length i16, key, value length i32, value ...; big-endian
    MSGPACK   ours: array of 7 [code, flag, opaque, language, version, remark, ext_fields]

JSON and ROCKETMQ write every ext value as a string, since clients drop or refuse anything else;
what clients send in JSON (numbers, strings, "0"/"1" for booleans) is kept as it came.

Source: RocketMQ ``RemotingSerializable``, ``RocketMQSerializable``.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from dledger.remoting.command import (
    INT32_MAX,
    INT32_MIN,
    Buffer,
    Command,
    LanguageCode,
    SerializeType,
)
from dledger.remoting.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

_FIELDS: Final = ("code", "flag", "opaque", "language", "version", "remark", "ext_fields")
# First byte of every MSGPACK header.  It has to be checked: a longer array would fill in the
# fields of a command that come after the header's.
MSGPACK_ARRAY: Final = 0x97
NOT_AN_ARRAY_OF_7: Final = "it is not an array of 7 (first byte 0x97)"

_FIXED = struct.Struct(">HBHii")
_INT32 = struct.Struct(">i")
_INT16 = struct.Struct(">h")

# Pairs are read one by one: a header of nothing but empty ones would hold up everybody for seconds.
EXT_FIELDS_MAX: Final = 4096

_Int32 = Annotated[int, msgspec.Meta(ge=INT32_MIN, le=INT32_MAX)]


class _JsonHeader(msgspec.Struct, gc=False):
    """A JSON header as clients send it; keys we do not know are passed over."""

    code: _Int32
    opaque: _Int32
    flag: _Int32 = 0
    language: str | int | None = None
    version: _Int32 = 0
    remark: str | None = None
    extFields: dict[str, str | int | float | bool | None] | None = None  # noqa: N815 - the wire's


# msgspec checks types and bounds and builds the command in one pass of C, which is half the time
# of unpacking, checking and constructing here.  `connection` calls it without a frame between.
decode_msgpack = msgspec.msgpack.Decoder(Command).decode
_encode_msgpack = msgspec.msgpack.Encoder().encode
_decode_json = msgspec.json.Decoder(_JsonHeader).decode
_encode_json = msgspec.json.Encoder().encode
# What the decoders raise for hostile bytes: wrong types, deep nesting, bad UTF-8.
MSGPACK_ERRORS = _HOSTILE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError)


def encode_header(command: Command) -> bytes:
    """Return the header of *command*, written as its `serialization` says.

    Raises:
        LocalProtocolError: a field does not fit that serialization; the message names it.
    """
    kind = command.serialization
    if kind is SerializeType.MSGPACK:
        return encode_msgpack_header(command)
    _check_ranges(command)
    if kind is SerializeType.JSON:
        return _encode_json_header(command)
    return _encode_rocketmq_header(command)


def decode_header(serialize_type: int, header: Buffer) -> Command:
    """Return the command a header stands for, with an empty body.

    Args:
        serialize_type: the byte in front of the header length.
        header: exactly the header's bytes; any content may come.

    Raises:
        RemoteProtocolError: unknown serialization, or a header that is none; the message names
            the field, and carries the opaque where it could be read all the same.
    """
    decode: Callable[[Buffer], Command]
    if serialize_type == SerializeType.MSGPACK:
        decode = _decode_msgpack_header
    elif serialize_type == SerializeType.JSON:
        decode = _decode_json_header
    elif serialize_type == SerializeType.ROCKETMQ:
        decode = _decode_rocketmq_header
    else:
        raise RemoteProtocolError(
            f"serialize type {serialize_type} is unknown; "
            "use 0 (JSON), 1 (ROCKETMQ) or 77 (MSGPACK)"
        )
    try:
        return decode(header)
    except _HOSTILE as error:
        raise refuse_header(serialize_type, header, error) from None


def encode_msgpack_header(command: Command) -> bytes:
    """As `encode_header`, of a command that is written as MSGPACK."""
    if not (
        0 <= command.opaque <= INT32_MAX
        and INT32_MIN <= command.code <= INT32_MAX
        and INT32_MIN <= command.flag <= INT32_MAX
        and INT32_MIN <= command.version <= INT32_MAX
    ):
        _check_ranges(command)
        raise LocalProtocolError(f"opaque = {command.opaque} is negative; MSGPACK has 0 and up")
    try:
        return _encode_msgpack(
            (
                command.code,
                command.flag,
                command.opaque,
                command.language,
                command.version,
                command.remark,
                command.ext_fields or None,
            )
        )
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        raise LocalProtocolError(
            f"header of code {command.code} cannot be written as MSGPACK: {error}"
        ) from error


def _decode_msgpack_header(header: Buffer) -> Command:
    command = decode_msgpack(header)
    if header[0] != MSGPACK_ARRAY:
        raise ValueError(NOT_AN_ARRAY_OF_7)
    if not command.ext_fields:
        command.ext_fields = {}  # nil stands for none
    return command


def _encode_json_header(command: Command) -> bytes:
    header: dict[str, Any] = {"code": command.code}
    if command.ext_fields:
        header["extFields"] = _string_fields(command)
    header["flag"] = command.flag
    header["language"] = _language_name(command.language)
    header["opaque"] = command.opaque
    if command.remark is not None:
        header["remark"] = command.remark
    header["serializeTypeCurrentRPC"] = "JSON"
    header["version"] = command.version
    try:
        return _encode_json(header)
    except UnicodeEncodeError as error:
        raise LocalProtocolError(
            f"header of code {command.code} cannot be written as JSON: {error}"
        ) from error


def _decode_json_header(header: Buffer) -> Command:
    found = _decode_json(header)
    return Command(
        found.code,
        found.flag,
        found.opaque,
        _language_code(found.language),
        found.version,
        found.remark,
        {} if found.extFields is None else found.extFields,
        serialization=SerializeType.JSON,
    )


def _encode_rocketmq_header(command: Command) -> bytes:
    for field, most in (("code", 0xFFFF), ("language", 0xFF), ("version", 0xFFFF)):
        number: int = getattr(command, field)
        if not 0 <= number <= most:
            raise LocalProtocolError(
                f"{field} = {number} does not fit a ROCKETMQ header, which has 0 to {most}"
            )
    try:
        remark = (command.remark or "").encode()
        pairs = [(k.encode(), v.encode()) for k, v in _string_fields(command).items()]
    except UnicodeEncodeError as error:
        raise LocalProtocolError(
            f"header of code {command.code} cannot be written as ROCKETMQ: {error}"
        ) from error
    ext = bytearray()
    for key, value in pairs:
        if len(key) > 0x7FFF:
            raise LocalProtocolError(
                f"ext field name of {len(key)} bytes; a ROCKETMQ header has at most 32767"
            )
        ext += _INT16.pack(len(key)) + key + _INT32.pack(len(value)) + value
    fixed = _FIXED.pack(
        command.code, command.language, command.version, command.opaque, command.flag
    )
    return b"".join((fixed, _INT32.pack(len(remark)), remark, _INT32.pack(len(ext)), ext))


def _decode_rocketmq_header(header: Buffer) -> Command:
    data = bytes(header)
    if len(data) < _FIXED.size:
        raise ValueError(f"code to flag take {_FIXED.size} bytes, and {len(data)} are there")
    code, language, version, opaque, flag = _FIXED.unpack_from(data)
    remark, position = _take(data, _FIXED.size, _INT32, "remark")
    ext, position = _take(data, position, _INT32, "ext_fields")
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes follow ext_fields")
    ext_fields: dict[str, Any] = {}
    at = count = 0
    while at < len(ext):
        count += 1
        if count > EXT_FIELDS_MAX:
            raise ValueError(f"ext_fields has more than {EXT_FIELDS_MAX} pairs")
        key, at = _take(ext, at, _INT16, "ext_fields key")
        value, at = _take(ext, at, _INT32, "ext_fields value")
        ext_fields[key.decode()] = value.decode()
    return Command(
        code,
        flag,
        opaque,
        language,
        version,
        remark.decode() or None,
        ext_fields,
        serialization=SerializeType.ROCKETMQ,
    )


def _take(data: bytes, position: int, length: struct.Struct, field: str) -> tuple[bytes, int]:
    """Return the length-prefixed bytes at *position* and where they end."""
    start = position + length.size
    if start > len(data):
        raise ValueError(f"{field} has no room for its length")
    (size,) = length.unpack_from(data, position)
    if not 0 <= size <= len(data) - start:
        raise ValueError(f"{field} claims {size} bytes, and {len(data) - start} are left")
    return data[start : start + size], start + size


def _check_ranges(command: Command) -> None:
    for field in ("code", "flag", "opaque", "version"):
        value = getattr(command, field)
        if not INT32_MIN <= value <= INT32_MAX:
            raise LocalProtocolError(f"{field} = {value} is not a 32-bit number")


def _string_fields(command: Command) -> dict[str, str]:
    """Return the ext fields as RocketMQ has them: strings only, nulls left out."""
    fields: dict[str, str] = {}
    for key, value in command.ext_fields.items():
        if isinstance(value, str):
            fields[key] = value
        elif isinstance(value, bool):
            fields[key] = "true" if value else "false"
        elif isinstance(value, int | float):
            fields[key] = str(value)
        elif value is not None:
            raise LocalProtocolError(
                f"ext field {key!r} of code {command.code} is a {type(value).__name__}; "
                f"{command.serialization.name} carries strings, numbers and booleans"
            )
    return fields


def _language_name(language: int) -> str:
    try:
        return LanguageCode(language).name
    except ValueError:
        return LanguageCode.OTHER.name


def _language_code(language: str | int | None) -> int:
    if isinstance(language, str):
        member = LanguageCode.__members__.get(language)
        return LanguageCode.OTHER.value if member is None else member.value
    # Only for logs, and not worth a refusal; but nothing that another header cannot hold.
    return language if language is not None and 0 <= language <= 0xFF else LanguageCode.OTHER.value


def refuse_header(serialize_type: int, header: Buffer, error: Exception) -> RemoteProtocolError:
    """Return the error that names the field a header is refused for."""
    text = str(error)
    if found := re.search(r"`\$\[(\d+)\]", text):
        number = int(found[1])
        if number < len(_FIELDS):
            text = f"{_FIELDS[number]}: {text}"
    elif found := re.search(r"`\$\.(\w+)", text):
        text = f"{found[1]}: {text}"
    kind = SerializeType(serialize_type)
    return RemoteProtocolError(
        f"{kind.name} header of {len(header)} bytes is refused: {text}",
        opaque=_find_opaque(kind, header),
        serialize_type=serialize_type,
    )


def _find_opaque(kind: SerializeType, header: Buffer) -> int | None:
    """Return the opaque of a header that is otherwise broken, to answer it; None if it is lost."""
    found: object = None
    try:
        if kind is SerializeType.JSON:
            loose = msgspec.json.decode(header)
            found = loose.get("opaque") if isinstance(loose, dict) else None
        elif kind is SerializeType.MSGPACK:
            loose = msgspec.msgpack.decode(header)
            found = loose[2] if isinstance(loose, list) and len(loose) > 2 else None
        elif len(header) >= _FIXED.size:
            found = _FIXED.unpack_from(header)[3]
    except _HOSTILE:
        return None
    least = 0 if kind is SerializeType.MSGPACK else INT32_MIN
    return found if type(found) is int and least <= found <= INT32_MAX else None

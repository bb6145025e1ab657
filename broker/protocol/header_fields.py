"""How a header's dataclass becomes ext fields, and how it is read from them.

The wire says ``consumerGroup`` where the dataclass says ``consumer_group``.  RocketMQ's clients mix
numbers, numbers written as strings, and "true", "0" or false for one kind of field, so reading is
generous about how a value is written and strict about what it is: a queue id beyond 32 bits would
otherwise fail only when the record is laid out.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from broker.errors import HeaderError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Int32 = Annotated[int, "i32"]
Int64 = Annotated[int, "i64"]
UInt64 = Annotated[int, "u64"]

_RANGES = {
    "i32": (-(1 << 31), (1 << 31) - 1),
    "i64": (-(1 << 63), (1 << 63) - 1),
    "u64": (0, (1 << 64) - 1),
}
_DECIMAL = re.compile(r"-?[0-9]{1,20}\Z", re.ASCII)
_TRUE = ("true", "1", True, 1)
_FALSE = ("false", "0", False, 0, "")

T = TypeVar("T")
HeaderType = TypeVar("HeaderType", bound="Header")


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """Base of every request and response header: a frozen dataclass of ints, strings and flags."""

    @classmethod
    def decode(cls: type[HeaderType], ext_fields: Mapping[str, Any] | None) -> HeaderType:
        """Return the header *ext_fields* hold; fields it does not know are ignored.

        Raises:
            HeaderError: a field is missing, of another kind, or out of range; names the field.
        """
        return decode_fields(cls, ext_fields, _plan(cls))

    def encode(self) -> dict[str, Any]:
        """Return the ext fields of this header; what is None is left out."""
        result: dict[str, Any] = {}
        for field in _plan(type(self)):
            value = getattr(self, field.name)
            if value is not None:
                result[field.wire_name] = value
        return result


class FieldPlan(typing.NamedTuple):
    """How one field is named and read."""

    name: str
    wire_name: str
    read: Callable[[Any, str], Any]
    is_required: bool


def camel_case(name: str) -> str:
    """Return ``consumerGroup`` for ``consumer_group``."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def decode_fields(
    cls: type[T], ext_fields: Mapping[str, Any] | None, plan: tuple[FieldPlan, ...]
) -> T:
    """Return a *cls* read from *ext_fields* by *plan*. Raises as `Header.decode`."""
    values: dict[str, Any] = {}
    given = ext_fields or {}
    for name, wire_name, read, is_required in plan:
        value = given.get(wire_name)
        if value is not None:
            values[name] = read(value, wire_name)
        elif is_required:
            raise HeaderError(f"missing; {cls.__name__} needs it", field=wire_name)
    return cls(**values)


def renamed_plan(cls: type[Header], wire_names: Mapping[str, str]) -> tuple[FieldPlan, ...]:
    """Return the plan of *cls* with other names on the wire, for the fields in *wire_names*."""
    return tuple(
        field._replace(wire_name=wire_names[field.name])
        for field in _plan(cls)
        if field.name in wire_names
    )


_plans: dict[type, tuple[FieldPlan, ...]] = {}  # filled once for each class, never changed


def _plan(cls: type[Header]) -> tuple[FieldPlan, ...]:
    plan = _plans.get(cls)
    if plan is None:
        hints = typing.get_type_hints(cls, include_extras=True)
        plan = _plans[cls] = tuple(
            FieldPlan(
                field.name,
                field.metadata.get("wire", camel_case(field.name)),
                reader(hints[field.name]),
                field.default is dataclasses.MISSING,
            )
            for field in dataclasses.fields(cls)
        )
    return plan


def reader(hint: Any) -> Callable[[Any, str], Any]:  # noqa: ANN401 - a type, or a union of two
    """Return what reads one value of the type *hint*, given the value and its wire name."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Annotated:
        return _read_int(*_RANGES[typing.get_args(hint)[1]])
    return {str: _read_str, bool: _read_bool, bytes: _read_bytes}[hint]


def _read_int(least: int, most: int) -> Callable[[Any, str], int]:
    def read(value: object, wire_name: str) -> int:
        if type(value) is int:
            number = value
        elif isinstance(value, str) and _DECIMAL.match(value):
            number = int(value)
        else:
            raise HeaderError(f"{_show(value)} is no whole number", field=wire_name)
        if not least <= number <= most:
            raise HeaderError(
                f"{number} is out of range; allowed are {least} to {most}", field=wire_name
            )
        return number

    return read


def _read_str(value: object, wire_name: str) -> str:
    if not isinstance(value, str):
        raise HeaderError(f"{_show(value)} is no string", field=wire_name)
    return value


def _read_bool(value: object, wire_name: str) -> bool:
    if isinstance(value, str | int):
        lowered = value.lower() if isinstance(value, str) else value
        if lowered in _TRUE:
            return True
        if lowered in _FALSE:
            return False
    raise HeaderError(f"{_show(value)} is neither true nor false", field=wire_name)


def _read_bytes(value: object, wire_name: str) -> bytes:
    if not isinstance(value, bytes):
        raise HeaderError(
            f"{_show(value)} is no binary string; this request needs MSGPACK headers",
            field=wire_name,
        )
    return value


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

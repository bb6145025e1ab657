"""The file of a node's settings, ``node.toml``: read, written, and two of them compared.

A file has the tables ``[node]``, ``[[member]]`` (one each), ``[store]``, ``[raft]``, ``[broker]``,
``[nameserver]`` and ``[metrics]``.  A key nobody knows is an error: mistyped, it would leave its
setting at the default without a word.  Byte sizes may be written with a unit:
``segment_size = "64MiB"``.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from broker.config import BrokerConfig, MemberConfig, MetricsConfig, NameserverConfig, NodeConfig
from dledger.config import GIB, KIB, MIB, RaftConfig, StoreConfig
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)\Z")
_SIZE_UNITS = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1024 * GIB}
_DECIMAL_UNITS = {"k", "kb", "m", "mb", "g", "gb", "t", "tb"}

# Keys counted in bytes: the ones that take a unit.
SIZE_KEYS = frozenset(
    {
        "append_size_max", "body_size_max", "checkpoint_size", "connection_inflight_size_max",
        "connection_pending_size_max", "inflight_size_max", "log_size_max", "partial_size_max",
        "peer_buffer_max", "pending_size_max", "requests_held_size_max", "segment_size",
        "unread_size_max",
    }
)  # fmt: skip

_VALIDATION_ERROR = re.compile(r"(?P<what>.*) - at `\$\.(?P<key>\w+)[^`]*`", re.DOTALL)

_T = TypeVar("_T")


def load_config(path: Path | str) -> NodeConfig:
    """Read and check *path*.

    A relative ``data_folder`` counts from the folder of *path*.

    Raises:
        ConfigError: names file, key and remedy.
    """
    path = Path(path)
    text = _read_text(
        path,
        "`dledger up` writes one for each node of a local group, docs/configuration.md shows how "
        "to write your own",
    )
    try:
        return parse_config(text, base_folder=path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def load_table(path: Path, name: str, *, hint: str) -> dict[str, Any]:
    """Return the one table *name* of a file that may hold no other.

    Raises:
        ConfigError: names file, key and remedy; *hint* says where to find such a file.
    """
    text = _read_text(path, hint)
    try:
        tables = _parse_toml(text)
        _refuse_unknown("", tables, [name])
        return _take_table(tables, name)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read_text(path: Path, hint: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _parse_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError("not valid TOML: brackets in brackets without end") from None
    except ValueError as error:  # TOMLDecodeError, and Python's own for a number of 5,000 digits
        raise ConfigError(f"not valid TOML: {error}") from None


def parse_config(text: str, *, base_folder: Path) -> NodeConfig:
    """Return the settings that *text* (TOML) holds.

    Args:
        text: the content of a ``node.toml``.
        base_folder: what a relative ``data_folder`` counts from.

    Raises:
        ConfigError: names table, key and remedy.
    """
    tables = _parse_toml(text)
    _refuse_unknown("", tables, _TABLES)
    node = _take_table(tables, "node")
    _refuse_unknown("[node] ", node, _NODE_KEYS)
    data_folder = node.get("data_folder")
    if isinstance(data_folder, str) and data_folder:
        try:
            expanded = Path(data_folder).expanduser()
        except RuntimeError as error:
            raise ConfigError(
                f"[node] data_folder = {data_folder!r}: {error}; write the whole path"
            ) from None
        node = node | {"data_folder": str(base_folder / expanded)}
    members = tables.get("member", [])
    if not isinstance(members, list) or not members:
        raise ConfigError(
            "[[member]] is missing; write one for every member of the group, this node included"
        )
    broker_table = _take_table(tables, "broker")
    log_file = broker_table.get("log_file")
    if isinstance(log_file, str) and log_file:
        broker_table = broker_table | {"log_file": str(base_folder / log_file)}
    values: dict[str, Any] = node | {
        "members": tuple(
            convert_table(f"[[member]] number {number} ", member, MemberConfig)
            for number, member in enumerate(members, start=1)
        ),
        "store": convert_table("[store] ", _take_table(tables, "store"), StoreConfig),
        "raft": convert_table("[raft] ", _take_table(tables, "raft"), RaftConfig),
        "broker": convert_table("[broker] ", broker_table, BrokerConfig),
        "nameserver": convert_table(
            "[nameserver] ", _take_table(tables, "nameserver"), NameserverConfig
        ),
        "metrics": convert_table("[metrics] ", _take_table(tables, "metrics"), MetricsConfig),
    }
    return convert_table("[node] ", values, NodeConfig)


def dump_config(config: NodeConfig) -> str:
    """Return a ``node.toml`` that reads back as *config*; what has its default is left out."""
    lines = ["# Every key, its unit and default: docs/configuration.md", "", "[node]"]
    lines += _dump_fields(config, NodeConfig, leave_out={"members", *_SECTIONS})
    for member in config.members:
        lines += ["", "[[member]]", *_dump_fields(member, MemberConfig)]
    for name in _SECTIONS:
        section = getattr(config, name)
        if changed := _dump_fields(section, type(section)):
            lines += ["", f"[{name}]", *changed]
    return "\n".join(lines) + "\n"


def differing_keys(one: NodeConfig, other: NodeConfig) -> list[str]:
    """Return ``key: value of one != value of other`` for every setting in which they differ."""
    found = []
    for item in dataclasses.fields(NodeConfig):
        left, right = getattr(one, item.name), getattr(other, item.name)
        if item.name in _SECTIONS:
            found += [
                f"{item.name}.{inner.name}: {_show(getattr(left, inner.name))} != "
                f"{_show(getattr(right, inner.name))}"
                for inner in dataclasses.fields(left)
                if getattr(left, inner.name) != getattr(right, inner.name)
            ]
        elif left != right:
            found.append(f"{item.name}: {_show(left)} != {_show(right)}")
    return found


def parse_size(text: str) -> int:
    """Return the bytes that *text* names: ``"4096"``, ``"64MiB"``, ``"1.5 GiB"``.

    Raises:
        ConfigError: no number, or a unit that is not KiB, MiB, GiB or TiB.
    """
    match = _SIZE.match(text.strip())
    if match is None:
        raise ConfigError(f'{text[:80]!r} is no size; write bytes, or a size like "64MiB"')
    number, unit = match[1], match[2].lower()
    if len(number) > 30:
        raise ConfigError(f'{text[:40]!r}... has too many digits; write a size like "64MiB"')
    if unit in _DECIMAL_UNITS:
        raise ConfigError(f'{text!r}: write {unit[0].upper()}iB (powers of 1024), as in "64MiB"')
    if unit not in _SIZE_UNITS:
        raise ConfigError(f"{text!r}: {match[2]!r} is no unit; use KiB, MiB, GiB or TiB")
    size = float(number) * _SIZE_UNITS[unit]
    if size != int(size):
        raise ConfigError(f"{text!r} is no whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """Return *size* in bytes with the largest unit that leaves a whole number: ``"64MiB"``."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _take_table(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{name} must be a table; write [{name}] above its keys")
    return table


def _refuse_unknown(where: str, keys: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            if near:
                hint = f"did you mean {near[0]}?"
            elif tables := [name for name in _ALL_KEYS if key in _ALL_KEYS[name]]:
                hint = f"it belongs to [{tables[0]}]"
            else:
                hint = f"known are {', '.join(known)}"
            raise ConfigError(f"{where}{key}: unknown key; {hint}")


def convert_table(where: str, table: object, into: type[_T]) -> _T:
    """Return *table* as an *into*, its errors beginning with *where*."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where}must be a table of keys")
    fields = {item.name: item for item in dataclasses.fields(into)}  # type: ignore[arg-type]
    _refuse_unknown(where, table, fields)
    values = dict(table)
    for key, value in table.items():
        if isinstance(value, int) and value.bit_length() > 63:
            # Written in hexadecimal it may be too long even to be quoted.
            raise ConfigError(f"{where}{key} is a number of {value.bit_length()} bits; write less")
        if key in SIZE_KEYS and isinstance(value, str):
            try:
                values[key] = parse_size(value)
            except ConfigError as error:
                raise ConfigError(f"{where}{key} = {error}") from None
    missing = [
        name
        for name, item in fields.items()
        if name not in values
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}{missing[0]} is missing; add it")
    try:
        return msgspec.convert(values, into)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}{_explain(str(error), values)}") from None


def _explain(text: str, values: Mapping[str, object]) -> str:
    """Turn msgspec's ``Expected `int`, got `str` - at `$.key``` into a sentence about the key."""
    match = _VALIDATION_ERROR.fullmatch(text)
    if match is None:
        return text
    key = match["key"]
    what = match["what"][:1].lower() + match["what"][1:]
    if allowed := _CHOICES.get(key):
        what = f"use {' or '.join(allowed)}"
    return f"{key} = {values.get(key)!r}: {what.replace('`', '')}"


def _dump_fields(value: object, of: type[object], *, leave_out: Iterable[str] = ()) -> list[str]:
    lines = []
    for item in dataclasses.fields(of):  # type: ignore[arg-type]
        if item.name in leave_out:
            continue
        found = getattr(value, item.name)
        if item.default is not dataclasses.MISSING and found == item.default:
            continue
        if item.name in SIZE_KEYS:
            size = format_size(found)
            text = size if size.isdigit() else f'"{size}"'
        else:
            text = _dump_value(found)
        lines.append(f"{item.name} = {text}")
    return lines


def _dump_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, enum.Enum):
        value = value.value
    assert isinstance(value, str), value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(
            f"{item.node_id} {item.peer_address} {item.broker_address}"
            for item in value
            if isinstance(item, MemberConfig)
        )
    return str(value.value) if isinstance(value, enum.Enum) else str(value)


_NODE_KEYS = (
    "group", "node_id", "data_folder", "cluster", "listen_host", "broker_port", "peer_port",
)  # fmt: skip
_SECTIONS = ("store", "raft", "broker", "nameserver", "metrics")
_TABLES = ("node", "member", *_SECTIONS)
_ALL_KEYS: dict[str, tuple[str, ...]] = {
    "node": _NODE_KEYS,
    "member": tuple(item.name for item in dataclasses.fields(MemberConfig)),
    "store": tuple(item.name for item in dataclasses.fields(StoreConfig)),
    "raft": tuple(item.name for item in dataclasses.fields(RaftConfig)),
    "broker": tuple(item.name for item in dataclasses.fields(BrokerConfig)),
    "nameserver": tuple(item.name for item in dataclasses.fields(NameserverConfig)),
    "metrics": tuple(item.name for item in dataclasses.fields(MetricsConfig)),
}
_CHOICES = {
    item.name: tuple(choice.value for choice in type(item.default))
    for section in (StoreConfig, NameserverConfig)
    for item in dataclasses.fields(section)
    if isinstance(item.default, enum.Enum)
}

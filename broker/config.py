"""Settings of one node: read from its ``node.toml``, checked whole before anything starts.

A file has the tables ``[node]``, ``[[member]]`` (one each), ``[store]``, ``[raft]``, ``[broker]``,
``[nameserver]`` and ``[metrics]``; docs/configuration.md lists every key.  A key nobody knows is an
error: mistyped, it would leave its setting at the default without a word.  Byte sizes may be
written with a unit: ``segment_size = "64MiB"``.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import ipaddress
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dledger.config import (
    GIB,
    KIB,
    MIB,
    LedgerConfig,
    Member,
    RaftConfig,
    StoreConfig,
    check_host,
    check_name,
    check_port,
    check_range,
    format_address,
)
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json", "console")
# An ack stands on the copy of the leader, of a majority, of every member.
BROKER_ROLES = ("ASYNC_MASTER", "SYNC_MASTER", "ALL")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberConfig:
    """One member of the group: where its peers and its clients reach it.

    The same on every member: the handshake between peers refuses a list that differs.
    """

    node_id: str
    host: str  # for its peers: a name, an IPv4 or an IPv6 address without brackets
    peer_port: int
    broker_port: int
    advertised_host: str = ""  # for its clients; "": *host*

    def __post_init__(self) -> None:
        check_name("node_id", self.node_id)
        check_host("host", self.host)
        check_port("peer_port", self.peer_port)
        check_port("broker_port", self.broker_port)
        if self.advertised_host:
            check_host("advertised_host", self.advertised_host)

    @property
    def peer_address(self) -> str:
        """``host:port`` for its peers, an IPv6 host in brackets."""
        return format_address(self.host, self.peer_port)

    @property
    def broker_address(self) -> str:
        """``host:port`` that clients are told, an IPv6 host in brackets."""
        return format_address(self.advertised_host or self.host, self.broker_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """Limits and defaults of the part that clients talk to."""

    auto_create_topic: bool = True  # a send to an unknown topic creates it
    default_topic_queue_count: int = 4  # queues of a topic whose creator names no number
    auto_create_group: bool = True  # a consumer group comes to be by being used
    groups_max: int = 10_000  # consumer groups; one more is refused
    topics_max: int = 10_000  # one more is refused
    queues_max: int = 100_000  # of all topics together; a topic with more is refused
    # Who has a copy when a send is answered. Source: RocketMQ ``brokerRole``; ALL is ours.
    broker_role: str = "SYNC_MASTER"
    ack_timeout_ms: int = 2_000  # longest time a send waits for more than a majority
    body_size_max: int = 4 * MIB  # bytes of one message's body
    connections_max: int = 10_000  # one more is closed at once
    # Bytes of answers that one connection has not taken; above it nothing more is read from it, and
    # at twice as much it is closed.
    connection_pending_size_max: int = 64 * MIB
    unread_size_max: int = GIB  # the same over all connections; the one with the most is closed
    # Bytes of requests that have begun to arrive, over all connections; above it the connection is
    # closed whose request began first.
    partial_size_max: int = 256 * MIB
    # Bytes of one connection's requests that are taken and not answered; above it nothing more is
    # read from it until half of them are.
    connection_inflight_size_max: int = 16 * MIB
    # The same and answers not taken, over all connections; above it a connection that has any is
    # read no further until it has none.
    inflight_size_max: int = 512 * MIB
    # Requests that wait for a leader; as many again may wait for a topic that is being created.
    requests_held_max: int = 10_000
    requests_held_size_max: int = 64 * MIB
    pull_hold_max_ms: int = 30_000  # longest time a pull that finds nothing is held
    pulls_held_max: int = 100_000  # one more is answered at once: nothing new
    # Most slots and entries of one file of the key index; files of small segments have fewer.
    key_index_slot_count: int = 500_000
    key_index_entry_count: int = 2_000_000
    log_level: str = "info"  # debug, info, warning, error
    log_format: str = "text"  # text, json, console: one line each, JSON, coloured for people
    log_file: str = ""  # "": stderr

    def __post_init__(self) -> None:
        check_range("default_topic_queue_count", self.default_topic_queue_count, 1, 1024)
        check_range("groups_max", self.groups_max, 1, 1_000_000)
        check_range("topics_max", self.topics_max, 1, 1_000_000)
        check_range("queues_max", self.queues_max, 1, 10_000_000)
        if self.broker_role not in BROKER_ROLES:
            raise ConfigError(f"broker_role = {self.broker_role!r}: use {', '.join(BROKER_ROLES)}")
        check_range("ack_timeout_ms", self.ack_timeout_ms, 1, 600_000)
        check_range("body_size_max", self.body_size_max, 1, 15 * MIB)
        check_range("connections_max", self.connections_max, 1, 1_000_000)
        check_range(
            "connection_pending_size_max", self.connection_pending_size_max, 16 * MIB, 16 * GIB
        )
        check_range("unread_size_max", self.unread_size_max, 32 * MIB, 1024 * GIB)
        check_range("partial_size_max", self.partial_size_max, 16 * MIB, 1024 * GIB)
        check_range("connection_inflight_size_max", self.connection_inflight_size_max, 1, 16 * GIB)
        check_range("inflight_size_max", self.inflight_size_max, MIB, 1024 * GIB)
        check_range("requests_held_max", self.requests_held_max, 1, 10_000_000)
        check_range("requests_held_size_max", self.requests_held_size_max, MIB, 1024 * GIB)
        check_range("pull_hold_max_ms", self.pull_hold_max_ms, 0, 600_000)
        check_range("pulls_held_max", self.pulls_held_max, 0, 10_000_000)
        check_range("key_index_slot_count", self.key_index_slot_count, 8, 100_000_000)
        check_range("key_index_entry_count", self.key_index_entry_count, 32, 400_000_000)
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(f"log_level = {self.log_level!r}: use {', '.join(LOG_LEVELS)}")
        if self.log_format not in LOG_FORMATS:
            raise ConfigError(f"log_format = {self.log_format!r}: use {', '.join(LOG_FORMATS)}")
        if "\0" in self.log_file:
            raise ConfigError(f"log_file = {self.log_file!r}: no file has a zero byte in its name")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Where a node tells Prometheus and load balancers how it is."""

    port: int = 5557  # RocketMQ's; 0: nowhere
    host: str = ""  # to listen on; "": where the node listens for clients

    def __post_init__(self) -> None:
        check_range("port", self.port, 0, 65_535)
        if self.host:
            check_host("host", self.host)


class RouteMode(enum.Enum):
    """How a group presents itself to RocketMQ's clients; see `broker.nameserver.routes`."""

    PER_NODE = "per-node"
    SINGLE = "single"


@dataclass(frozen=True, slots=True, kw_only=True)
class NameserverConfig:
    """What RocketMQ's clients find when they ask this node for a route."""

    route: RouteMode = RouteMode.PER_NODE
    port: int = 0  # to listen on besides the broker port, which answers the same; 0: none

    def __post_init__(self) -> None:
        if self.port:
            check_port("port", self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One node of one broker group."""

    group: str
    node_id: str
    members: tuple[MemberConfig, ...]
    data_folder: str
    cluster: str = ""  # several groups that clients are told together; "": as the group
    listen_host: str = "127.0.0.1"  # "" listens on every interface, IPv4 and IPv6
    broker_port: int = 0  # to listen on; 0: the one of this node's member entry
    peer_port: int = 0  # to listen on; 0: the one of this node's member entry
    store: StoreConfig = field(default_factory=StoreConfig)
    raft: RaftConfig = field(default_factory=RaftConfig)
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    nameserver: NameserverConfig = field(default_factory=NameserverConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        if not self.data_folder:
            raise ConfigError("data_folder is empty; name the folder that holds the node's data")
        if "\0" in self.data_folder:
            raise ConfigError(
                f"data_folder = {self.data_folder!r}: no folder can have a zero byte in its name"
            )
        if self.cluster:
            check_name("cluster", self.cluster)
        if self.listen_host:
            check_host("listen_host", self.listen_host)
        if self.broker_port:
            check_port("broker_port", self.broker_port)
        if self.peer_port:
            check_port("peer_port", self.peer_port)
        self._check_addresses()
        self.to_ledger_config()  # the ledger checks group, node_id and members
        if self.listen_broker_port == self.listen_peer_port:
            raise ConfigError(
                f"broker_port and peer_port are both {self.listen_peer_port}; "
                "clients and peers need a port each"
            )
        if self.nameserver.port in (self.listen_broker_port, self.listen_peer_port):
            raise ConfigError(
                f"[nameserver] port = {self.nameserver.port} is taken by this node already; leave "
                "it out: routes are answered on the broker port, too"
            )
        taken = (self.listen_broker_port, self.listen_peer_port, self.nameserver.port)
        if self.metrics.port and self.metrics.port in taken:
            raise ConfigError(
                f"[metrics] port = {self.metrics.port} is taken by this node already; take another "
                "one, or 0 for none"
            )

    @property
    def cluster_name(self) -> str:
        """The name that clients are told for all groups of one cluster."""
        return self.cluster or self.group

    @property
    def member(self) -> MemberConfig:
        """This node's own entry in `members`."""
        return next(member for member in self.members if member.node_id == self.node_id)

    @property
    def advertised_address(self) -> str:
        """``host:port`` that clients are told for this node."""
        return self.member.broker_address

    @property
    def listen_broker_port(self) -> int:
        """Port on which this node listens for clients."""
        return self.broker_port or self.member.broker_port

    @property
    def listen_peer_port(self) -> int:
        """Port on which this node listens for its peers."""
        return self.peer_port or self.member.peer_port

    def to_ledger_config(self) -> LedgerConfig:
        """Return the part of the settings that the replicated log needs."""
        return LedgerConfig(
            group=self.group,
            node_id=self.node_id,
            members=tuple(
                Member(node_id=member.node_id, host=member.host, port=member.peer_port)
                for member in self.members
            ),
            data_folder=self.data_folder,
            listen_host=self.listen_host,
            listen_port=self.peer_port,
            store=self.store,
            raft=self.raft,
        )

    def warnings(self) -> list[str]:
        """Return what is allowed but hardly meant, one sentence each."""
        found = []
        if _is_loopback(self.listen_host) and not _is_loopback(self.member.host):
            found.append(
                f"listen_host = {self.listen_host!r} takes connections of this machine only, but "
                f"peers are told {self.member.peer_address}; set listen_host to the address of an "
                'interface, or to "" for all of them'
            )
        if self._is_group_torn:
            found.append(
                "some members have a loopback host and others have not; members on other machines "
                "cannot reach the loopback ones"
            )
        return found

    @property
    def _is_group_torn(self) -> bool:
        """Whether only some of the members have a loopback host."""
        return len({_is_loopback(member.host) for member in self.members}) > 1

    def _check_addresses(self) -> None:
        owners: dict[str, str] = {}
        for member in self.members:
            for use in ("peer_port", "broker_port"):
                address = member.peer_address if use == "peer_port" else member.broker_address
                name = f"{use} of {member.node_id}"
                if address in owners:
                    raise ConfigError(
                        f"{address} is both {owners[address]} and {name}; every one needs a port "
                        "of its own"
                    )
                owners[address] = name


def load_config(path: Path | str) -> NodeConfig:
    """Read and check *path*.

    A relative ``data_folder`` counts from the folder of *path*.

    Raises:
        ConfigError: names file, key and remedy.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; `dledger up` writes one for each node of a local group, "
            "docs/configuration.md shows how to write your own"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        return parse_config(text, base_folder=path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_config(text: str, *, base_folder: Path) -> NodeConfig:
    """Return the settings that *text* (TOML) holds.

    Args:
        text: the content of a ``node.toml``.
        base_folder: what a relative ``data_folder`` counts from.

    Raises:
        ConfigError: names table, key and remedy.
    """
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ConfigError("not valid TOML: brackets in brackets without end") from None
    except ValueError as error:  # TOMLDecodeError, and Python's own for a number of 5,000 digits
        raise ConfigError(f"not valid TOML: {error}") from None
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
            _convert(f"[[member]] number {number} ", member, MemberConfig)
            for number, member in enumerate(members, start=1)
        ),
        "store": _convert("[store] ", _take_table(tables, "store"), StoreConfig),
        "raft": _convert("[raft] ", _take_table(tables, "raft"), RaftConfig),
        "broker": _convert("[broker] ", broker_table, BrokerConfig),
        "nameserver": _convert(
            "[nameserver] ", _take_table(tables, "nameserver"), NameserverConfig
        ),
        "metrics": _convert("[metrics] ", _take_table(tables, "metrics"), MetricsConfig),
    }
    return _convert("[node] ", values, NodeConfig)


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


def _convert(where: str, table: object, into: type[_T]) -> _T:
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


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


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

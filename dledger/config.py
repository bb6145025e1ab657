"""Settings of the ledger, each with its unit in the name, checked before anything starts."""

from __future__ import annotations

import enum
import itertools
import re
from dataclasses import dataclass, field

from dledger.errors import ConfigError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class FlushDiskType(enum.Enum):
    """What an acknowledgement stands on. Source: RocketMQ ``FlushDiskType``."""

    SYNC_FLUSH = "SYNC_FLUSH"  # on the disks of a majority
    ASYNC_FLUSH = "ASYNC_FLUSH"  # in the page cache of a majority


class WriteMode(enum.Enum):
    """How bytes reach a mapped file. Source: RocketMQ's key ``writeWithoutMmap``."""

    AUTO = "auto"  # what is quickest, pwrite
    MMAP = "mmap"
    PWRITE = "pwrite"


class SyncBy(enum.Enum):
    """Who waits for the disk when the log is synced."""

    AUTO = "auto"  # io_uring where it can be had
    IO_URING = "io_uring"  # the kernel's threads, without one of ours; Linux
    THREAD = "thread"


class HoldBack(enum.Enum):
    """Which followers hear of something small later when no commit needs them."""

    AUTO = "auto"  # those on the leader's own machine, by the member list
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of the group and where its peers reach it.

    *host* may be a name (dashes allowed), an IPv4 or an IPv6 address without brackets.
    """

    node_id: str
    host: str
    port: int

    def __post_init__(self) -> None:
        check_name("node id", self.node_id)
        check_host(f"host of member {self.node_id}", self.host)
        check_port(f"port of member {self.node_id}", self.port)

    @property
    def address(self) -> str:
        """``host:port``, an IPv6 host in brackets."""
        return format_address(self.host, self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Sizes and flushing of one node's store."""

    segment_size: int = GIB  # bytes of one commit-log file; the same on every member
    index_file_units: int = 512 * KIB  # 32-byte units of one index file (16 MiB)
    flush_disk_type: FlushDiskType = FlushDiskType.SYNC_FLUSH
    flush_interval_ms: int = 500  # ASYNC_FLUSH: longest time before dirty pages are synced
    write_mode: WriteMode = WriteMode.AUTO
    sync_by: SyncBy = SyncBy.AUTO
    checkpoint_interval_ms: int = 5_000
    checkpoint_size: int = 64 * MIB  # a checkpoint at the latest after so many new bytes
    log_size_max: int = 0  # bytes kept; whole segments above it are dropped; 0: no bound
    file_reserved_hours: int = 72  # segments with nothing younger are dropped; 0: none for its age
    delete_when: str = "04"  # hours of the local day at which that happens, with ";" between them
    # Percent of the file system of the data folder that are used: above the first segments past
    # their time go at any hour, above the second the oldest go whatever their age, above the third
    # the leader takes no messages. 100 is never reached.
    disk_clean_percent: int = 75
    disk_force_percent: int = 85
    disk_refuse_percent: int = 90

    def __post_init__(self) -> None:
        # One entry must fit a segment: a page is the least that can hold header, body and filler.
        check_range("segment_size", self.segment_size, 4 * KIB, 64 * GIB)
        if self.segment_size % (4 * KIB):
            raise ConfigError(
                f"segment_size = {self.segment_size} is not a multiple of 4096; "
                "use a whole number of pages"
            )
        check_range("index_file_units", self.index_file_units, 128, 16 * MIB)
        check_range("flush_interval_ms", self.flush_interval_ms, 1, 600_000)
        check_range("checkpoint_interval_ms", self.checkpoint_interval_ms, 10, 600_000)
        check_range("checkpoint_size", self.checkpoint_size, 4 * KIB, 64 * GIB)
        if self.log_size_max:
            check_range("log_size_max", self.log_size_max, 2 * self.segment_size, 1 << 60)
        check_range("file_reserved_hours", self.file_reserved_hours, 0, 24 * 366 * 100)
        parse_hours(self.delete_when)
        self._check_watermarks()

    @property
    def writes_through_map(self) -> bool:
        """Whether entries are stored through the mapping of their segment."""
        return self.write_mode is WriteMode.MMAP

    @property
    def zeroes_ahead(self) -> bool:
        """Whether segments are filled with zeros ahead of what is appended.

        A sync has less to do over bytes that were written before, and a store through the mapping
        does not wait for the file system.  Where neither is to be made quicker they are written in
        vain.
        """
        return self.flush_disk_type is FlushDiskType.SYNC_FLUSH or self.writes_through_map

    def _check_watermarks(self) -> None:
        names = ("disk_clean_percent", "disk_force_percent", "disk_refuse_percent")
        for name in names:
            check_range(name, getattr(self, name), 1, 100)
        for lower, upper in itertools.pairwise(names):
            if getattr(self, lower) > getattr(self, upper):
                raise ConfigError(
                    f"{lower} = {getattr(self, lower)} is above {upper} = {getattr(self, upper)}; "
                    "a disk that fills up is cleaned first, then by force, and then writes are "
                    "refused"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Timings and windows of the group; the same on every member is wise, but not required."""

    heartbeat_interval_ms: int = 75
    election_timeout_min_ms: int = 400
    election_timeout_max_ms: int = 800
    # After a leader's connection broke the survivors stand one after another, this far apart.
    election_stagger_ms: int = 20
    transfer_timeout_ms: int = 2_000
    connect_timeout_ms: int = 1_000
    reconnect_delay_max_ms: int = 500
    append_size_max: int = 4 * MIB  # bytes of entries in one message to a follower
    append_window: int = 4  # messages with entries on their way to one follower
    hold_back: HoldBack = HoldBack.AUTO
    peer_buffer_max: int = 64 * MIB  # unsent bytes to one peer before its connection is closed
    pending_size_max: int = 64 * MIB  # bytes proposed and not yet committed before SYSTEM_BUSY

    def __post_init__(self) -> None:
        check_range("heartbeat_interval_ms", self.heartbeat_interval_ms, 5, 60_000)
        check_range("election_timeout_min_ms", self.election_timeout_min_ms, 20, 600_000)
        check_range("election_timeout_max_ms", self.election_timeout_max_ms, 21, 600_000)
        if self.election_timeout_min_ms <= 3 * self.heartbeat_interval_ms:
            raise ConfigError(
                f"election_timeout_min_ms = {self.election_timeout_min_ms} must be more than three "
                f"times heartbeat_interval_ms = {self.heartbeat_interval_ms}; otherwise one late "
                "heartbeat starts an election"
            )
        if self.election_timeout_max_ms <= self.election_timeout_min_ms:
            raise ConfigError(
                f"election_timeout_max_ms = {self.election_timeout_max_ms} must be more than "
                f"election_timeout_min_ms = {self.election_timeout_min_ms}; the spread keeps two "
                "candidates from standing up together"
            )
        check_range("election_stagger_ms", self.election_stagger_ms, 0, 10_000)
        check_range("transfer_timeout_ms", self.transfer_timeout_ms, 10, 600_000)
        check_range("connect_timeout_ms", self.connect_timeout_ms, 10, 600_000)
        check_range("reconnect_delay_max_ms", self.reconnect_delay_max_ms, 1, 600_000)
        check_range("append_size_max", self.append_size_max, 4 * KIB, 15 * MIB)
        check_range("append_window", self.append_window, 1, 1024)
        check_range("peer_buffer_max", self.peer_buffer_max, MIB, GIB)
        check_range("pending_size_max", self.pending_size_max, MIB, 16 * GIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerConfig:
    """One member of one group."""

    group: str
    node_id: str
    members: tuple[Member, ...]
    data_folder: str
    listen_host: str = "127.0.0.1"
    listen_port: int = 0  # 0: the port of this node's own member entry
    store: StoreConfig = field(default_factory=StoreConfig)
    raft: RaftConfig = field(default_factory=RaftConfig)

    def __post_init__(self) -> None:
        check_name("group", self.group)
        check_name("node_id", self.node_id)
        ids = [member.node_id for member in self.members]
        if len(set(ids)) != len(ids):
            raise ConfigError(f"members names a node twice: {', '.join(ids)}")
        if len(self.members) not in (1, 3, 5, 7):
            raise ConfigError(
                f"members has {len(self.members)} nodes; a group has 1, 3, 5 or 7 of them, as an "
                "even number survives no more failures than the odd one below it"
            )
        # One message may bring entries of nothing but headers; their units must fit the one index
        # file that is always prepared ahead.
        units = self.raft.append_size_max // 48
        if self.store.index_file_units < units:
            raise ConfigError(
                f"index_file_units = {self.store.index_file_units} is too small for "
                f"append_size_max = {self.raft.append_size_max}; use at least {units}"
            )
        if self.node_id not in ids:
            raise ConfigError(
                f"node_id = {self.node_id!r} is not among the members {', '.join(ids)}"
            )

    @property
    def member(self) -> Member:
        """This node's own entry in `members`."""
        return next(member for member in self.members if member.node_id == self.node_id)


def parse_hours(text: str) -> frozenset[int]:
    """Return the hours of the day in *text*: ``"04"`` or ``"02;14"``.

    Raises:
        ConfigError: there is none, or one is no hour.

    Source: RocketMQ ``UtilAll.isItTimeToDo``.
    """
    hours = [hour.strip() for hour in text.split(";")]
    if not all(re.fullmatch(r"[0-9]{1,2}", hour) and int(hour) < 24 for hour in hours):
        raise ConfigError(
            f"delete_when = {text[:100]!r}: write hours of the local day, 00 to 23, with ';' "
            "between them"
        )
    return frozenset(map(int, hours))


def check_name(what: str, value: str) -> None:
    """Raise `ConfigError` unless *value* can name a group or node in files and messages."""
    if not _NAME.match(value):
        raise ConfigError(
            f"{what} = {value!r}: use 1 to 64 letters, digits, '.', '_' or '-', "
            "the first a letter or digit"
        )


def check_host(what: str, value: str) -> None:
    """Raise `ConfigError` unless *value* looks like a host name or an address."""
    # None begins with a hyphen: that is an option of the command line, taken for a value.
    if not re.fullmatch(r"(?!-)[A-Za-z0-9._:%-]{1,255}", value):
        raise ConfigError(f"{what} = {value!r} is no host name or IP address (IPv6: no brackets)")


def check_port(what: str, value: int) -> None:
    """Raise `ConfigError` unless *value* is a TCP port."""
    check_range(what, value, 1, 65_535)


def check_range(what: str, value: int, least: int, most: int) -> None:
    """Raise `ConfigError` unless ``least <= value <= most``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{what} = {value!r} is not a whole number")
    if not least <= value <= most:
        raise ConfigError(f"{what} = {value} is out of range; allowed are {least} to {most}")


def format_address(host: str, port: int) -> str:
    """Return ``host:port``, with an IPv6 *host* in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str, *, default_port: int | None = None) -> tuple[str, int]:
    """Split ``host:port`` or ``[v6]:port``.

    Raises:
        ConfigError: *text* has no port and there is no default, or the port is none.
    """
    match = re.fullmatch(
        r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>\d+))?", text
    )
    if match is None:
        raise ConfigError(f"address {text!r}: write host:port, an IPv6 host as [::1]:port")
    port = int(match["port"]) if match["port"] else default_port
    if port is None:
        raise ConfigError(f"address {text!r} has no port; write host:port")
    host = match["v6"] or match["host"]
    check_host("host", host)
    check_port(f"port of {text!r}", port)
    return host, port

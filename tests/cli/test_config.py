"""A node.toml is read whole, and what is wrong in it is named."""

import dataclasses
import enum
import re
from pathlib import Path

import pytest

from broker.config import BrokerConfig, MemberConfig, MetricsConfig, NameserverConfig, NodeConfig
from broker.config_file import (
    SIZE_KEYS,
    differing_keys,
    dump_config,
    format_size,
    load_config,
    parse_config,
    parse_size,
)
from dledger.config import MIB, FlushDiskType, RaftConfig, StoreConfig
from dledger.errors import ConfigError

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"

GOOD = """
[node]
group = "orders"
node_id = "n1"
data_folder = "data"

[[member]]
node_id = "n1"
host = "127.0.0.1"
peer_port = 10876
broker_port = 9876

[[member]]
node_id = "n2"
host = "127.0.0.1"
peer_port = 10877
broker_port = 9877

[[member]]
node_id = "n3"
host = "::1"
peer_port = 10878
broker_port = 9878
advertised_host = "broker-3.example"

[store]
segment_size = "64MiB"
flush_disk_type = "ASYNC_FLUSH"

[raft]
heartbeat_interval_ms = 50

[broker]
pull_hold_max_ms = 1000
"""


def parse(text):
    return parse_config(text, base_folder=Path("/srv"))


def test_a_file_is_read_into_typed_settings():
    config = parse(GOOD)

    assert config.data_folder == "/srv/data"
    assert config.store.segment_size == 64 * MIB
    assert config.store.flush_disk_type is FlushDiskType.ASYNC_FLUSH
    assert config.raft.heartbeat_interval_ms == 50
    assert config.broker.pull_hold_max_ms == 1000
    assert config.advertised_address == "127.0.0.1:9876"
    assert config.members[2].peer_address == "[::1]:10878"
    assert config.members[2].broker_address == "broker-3.example:9878"
    assert (config.listen_broker_port, config.listen_peer_port) == (9876, 10876)


def test_the_ledger_gets_its_part():
    ledger = parse(GOOD).to_ledger_config()

    assert [member.address for member in ledger.members] == [
        "127.0.0.1:10876",
        "127.0.0.1:10877",
        "[::1]:10878",
    ]
    assert ledger.store.segment_size == 64 * MIB
    assert ledger.raft.heartbeat_interval_ms == 50


def test_what_is_dumped_reads_back_the_same():
    config = parse(GOOD)

    assert parse(dump_config(config)) == config


def test_a_dump_escapes_what_toml_would_misread():
    config = dataclasses.replace(parse(GOOD), data_folder='/srv/a "b"\\c\n')

    assert parse(dump_config(config)).data_folder == config.data_folder


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[raft]", 'delete_when = "24"\n[raft]', ["[store]", "delete_when = '24'", "00 to 23"]),
        ("[raft]", 'delete_when = ""\n[raft]', ["delete_when = ''", "hours of the local day"]),
        (
            "[raft]",
            "disk_clean_percent = 86\n[raft]",
            ["disk_clean_percent = 86 is above disk_force_percent = 85"],
        ),
        (
            "[raft]",
            "disk_refuse_percent = 80\n[raft]",
            ["disk_force_percent = 85 is above disk_refuse_percent = 80"],
        ),
        ("[raft]", "disk_clean_percent = 0\n[raft]", ["disk_clean_percent = 0 is out of range"]),
        ("segment_size", "segmnt_size", ["[store]", "segmnt_size", "did you mean segment_size?"]),
        ("[store]", "[strre]", ["strre", "did you mean store?"]),
        ("segment_size", "broker_port", ["[store]", "broker_port", "belongs to [node]"]),
        ('"64MiB"', '"64MB"', ["[store] segment_size", "write MiB"]),
        ('"64MiB"', '"many"', ["[store] segment_size", "no size"]),
        ('"64MiB"', "true", ["[store] segment_size = True", "expected int"]),
        ('"64MiB"', "17", ["[store] segment_size = 17", "allowed are 4096 to"]),
        ('"64MiB"', "4097", ["[store] segment_size = 4097", "multiple of 4096"]),
        ("ASYNC_FLUSH", "NO_FLUSH", ["flush_disk_type", "use SYNC_FLUSH or ASYNC_FLUSH"]),
        ("= 50", "= 500", ["[raft]", "heartbeat_interval_ms = 500", "three"]),
        ('group = "orders"\n', "", ["[node] group is missing"]),
        ('host = "::1"\n', "", ["[[member]] number 3 host is missing"]),
        ("[raft]", '[nameserver]\naddresses = "--help"\n[raft]', ["host = '--help'", "no host"]),
        ("peer_port = 10877", 'peer_port = "x"', ["number 2 peer_port = 'x'", "expected int"]),
        ("peer_port = 10877", "peer_port = 10876", ["127.0.0.1:10876", "peer_port of n2"]),
        ("peer_port = 10877", "peer_port = 9876", ["127.0.0.1:9876", "broker_port of n1"]),
        ('node_id = "n1"\ndata', 'node_id = "n9"\ndata', ["node_id = 'n9'", "n1, n2, n3"]),
        ('node_id = "n2"', 'node_id = "n1"', ["n1, n1, n3"]),
        ('group = "orders"', 'group = "a/b"', ["group = 'a/b'", "letters"]),
        ("[node]", "[node", ["not valid TOML", "line 2"]),
        ("pull_hold_max_ms = 1000", 'log_level = "loud"', ["log_level = 'loud'", "debug, info"]),
    ],
)
def test_an_error_names_the_key_and_what_to_do(old, new, words):
    assert old in GOOD

    with pytest.raises(ConfigError) as error:
        parse(GOOD.replace(old, new, 1))

    assert all(word in str(error.value) for word in words), str(error.value)


def test_an_error_in_a_file_begins_with_its_path(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text(GOOD.replace("[raft]", "[rafd]"))

    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: rafd: unknown key"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"no such file; .*dledger up"):
        load_config(tmp_path / "other.toml")


def test_no_members_is_an_error():
    with pytest.raises(ConfigError, match=r"\[\[member\]\] is missing"):
        parse('[node]\ngroup = "g"\nnode_id = "n1"\ndata_folder = "d"')


def test_a_loopback_listener_with_an_outside_host_is_warned_of():
    text = GOOD.replace('host = "127.0.0.1"', 'host = "10.0.0.1"', 1)

    warnings = parse(text).warnings()

    assert "listen_host = '127.0.0.1'" in warnings[0]
    assert "loopback" in warnings[1]
    assert parse(GOOD).warnings() == []


def test_differences_are_listed_by_key():
    one = parse(GOOD)
    other = dataclasses.replace(
        one, group="bills", store=dataclasses.replace(one.store, segment_size=MIB)
    )

    assert differing_keys(one, one) == []
    assert differing_keys(one, other) == [
        "group: orders != bills",
        f"store.segment_size: {64 * MIB} != {MIB}",
    ]


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("1KiB", 1024), ("1.5 MiB", 1536 * 1024), ("2gib", 2 << 30)],
)
def test_sizes_are_read_with_their_units(text, size):
    assert parse_size(text) == size
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.0001KiB", "5 apples", "1e3"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError):
        parse_size(text)


def _documented():
    """Return {section: {key: default as written}} of the document's tables."""
    found = {}
    keys = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            keys = found.setdefault(re.sub(r"## `?\[*(\w+).*", r"\1", line), {})
        elif match := re.match(r"\| `(\w+)` \| (.+?) \|", line):
            keys[match[1]] = match[2].strip("`")
    return found


def _written(item):
    """Return the default of field *item* as the document writes it."""
    if item.default is dataclasses.MISSING:
        return "required"
    if item.name in SIZE_KEYS and item.default:
        return f'"{format_size(item.default)}"'
    if isinstance(item.default, enum.Enum):
        return f'"{item.default.value}"'
    if isinstance(item.default, str):
        return f'"{item.default}"'
    return str(item.default).lower()


def test_every_key_is_documented_with_its_default():
    nested = {"members", "store", "raft", "broker", "nameserver", "metrics"}
    sections = {
        "node": NodeConfig,
        "member": MemberConfig,
        "store": StoreConfig,
        "raft": RaftConfig,
        "broker": BrokerConfig,
        "nameserver": NameserverConfig,
        "metrics": MetricsConfig,
    }

    expected = {
        name: {
            item.name: _written(item)
            for item in dataclasses.fields(section)
            if item.name not in nested or section is not NodeConfig
        }
        for name, section in sections.items()
    }

    documented = _documented()
    assert {name: documented[name] for name in sections} == expected


def test_the_document_s_example_is_a_valid_file():
    text = DOCUMENT.read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert example is not None

    config = parse(example[1])

    assert config.node_id == "n2"
    assert config.warnings() == []


def test_every_size_key_is_a_key():
    keys = {
        item.name
        for section in (StoreConfig, RaftConfig, BrokerConfig)
        for item in dataclasses.fields(section)
    }

    assert keys >= SIZE_KEYS


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('group = "orders"', "group = " + "[" * 5000, "brackets in brackets without end"),
        ("= 50", "= " + "9" * 5000, "not valid TOML: Exceeds the limit (4300 digits)"),
        ("= 50", "= 0x" + "f" * 5000, "[raft] heartbeat_interval_ms is a number of 20000 bits"),
        ('"64MiB"', '"' + "9" * 400 + 'TiB"', "[store] segment_size = '9999999999"),
        ('"data"', '"~nobody-of-that-name/x"', "[node] data_folder = '~nobody-of-that-name/x'"),
        ('"data"', '"a\\u0000b"', "no folder can have a zero byte in its name"),
    ],
    ids=["brackets", "digits", "bits", "size", "home", "zero byte"],
)
def test_what_python_itself_cannot_bear_is_a_line_too(tmp_path, old, new, said):
    """Each of these ended as a bare RecursionError, ValueError, OverflowError or RuntimeError."""
    path = tmp_path / "node.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))

    with pytest.raises(ConfigError) as caught:
        load_config(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 1000

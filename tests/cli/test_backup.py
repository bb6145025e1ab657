"""A log is copied whole and proved, and brought back without anything that was promised."""

import dataclasses
import itertools
import json

import msgpack
import msgspec
import pytest

from broker.cli.backup_copy import MANIFEST, Manifest, clear, restore, take_backup
from broker.cli.log_check import StoredLog
from broker.cli.log_commands import verify_logs
from broker.cli.main import main
from broker.config import MemberConfig, NodeConfig
from broker.config_file import dump_config
from broker.store.state_file import encode_state, file_name
from dledger.config import StoreConfig
from dledger.errors import ConfigError, CorruptStoreError, FolderMismatchError
from dledger.store.data_folder import DataFolder
from dledger.store.ledger_store import LedgerStore
from dledger.store.os_disk import OsDisk

SEGMENT_SIZE = 4096
STORE = StoreConfig(segment_size=SEGMENT_SIZE)


def config_of(folder, *, group="orders", node_id="n1", count=3, port=19000, **store):
    return NodeConfig(
        group=group,
        node_id=node_id,
        members=tuple(
            MemberConfig(
                node_id=f"n{n + 1}",
                host="127.0.0.1",
                peer_port=port + n,
                broker_port=port + 100 + n,
            )
            for n in range(count)
        ),
        data_folder=str(folder),
        store=StoreConfig(**{"segment_size": SEGMENT_SIZE, **store}),
    )


@pytest.fixture
def source(tmp_path):
    """A node's settings and its closed data folder of several segments, in terms 1 and 3."""
    config = config_of(tmp_path / "n1" / "data")
    folder = DataFolder.open(
        OsDisk(), config.data_folder, group="orders", node_id="n1", config=STORE, joining=True
    )
    folder.vote.end_joining("for the test")
    folder.vote.set(3, "n2")
    folder.vote.sync()
    folder.close()
    write(config, 30, 700, term=1)
    write(config, 11, 333, term=3)
    return config


def write(config, count, size, *, term):
    """Append so many entries of commands, of about *size* bytes."""
    store = LedgerStore.open(OsDisk(), config.store, config.data_folder)
    for number in range(count):
        body = msgpack.packb([["topic.put", {"topic": "t" * (size - 30), "number": number}]])
        store.append(kind=1, channel=1, term=term, body=[body], body_size=len(body))
    store.sync()
    store.close()


def entries(folder):
    log = StoredLog.open(folder)
    return [bytes(entry.raw) for entry in log.walk()]


def backup_of(config, target, *, end_index=None, progress=lambda _: None):
    return take_backup(config, target, end_index=end_index, taken_at_ms=5, progress=progress)


def test_a_backup_holds_every_entry_at_its_place(tmp_path, source):
    manifest = backup_of(source, tmp_path / "backup")

    assert (manifest.begin_index, manifest.end_index, manifest.entries) == (1, 41, 41)
    assert manifest.end_term == 3
    assert not manifest.is_hot
    assert entries(tmp_path / "backup") == entries(tmp_path / "n1")
    result = verify_logs(tmp_path / "backup", (tmp_path / "n1",))
    assert result["synced_index"] == 41
    assert result["against"][0]["identical_index"] == 41
    assert not (tmp_path / "backup" / "vote").exists()
    assert not (tmp_path / "backup" / "identity.json").exists()


@pytest.mark.parametrize("end_index", [0, 1, 5, 6, 40, 41])
def test_a_backup_ends_where_it_is_told(tmp_path, source, end_index):
    manifest = backup_of(source, tmp_path / "backup", end_index=end_index)

    assert manifest.is_hot
    assert manifest.end_index == manifest.entries == end_index
    assert entries(tmp_path / "backup") == entries(tmp_path / "n1")[:end_index]
    restored = config_of(tmp_path / "new" / "data", group="again")
    restore(tmp_path / "backup", restored, may_vote=True)
    assert entries(tmp_path / "new") == entries(tmp_path / "n1")[:end_index]


def test_a_log_that_ends_too_early_is_no_backup(tmp_path, source):
    with pytest.raises(CorruptStoreError, match=r"ends with entry 41 .*up to 42 are committed"):
        backup_of(source, tmp_path / "backup", end_index=42)
    assert not (tmp_path / "backup" / MANIFEST).exists()


def test_damage_in_the_log_is_found_on_the_way(tmp_path, source):
    path = tmp_path / "n1" / "data" / "commitlog" / f"{SEGMENT_SIZE:020d}"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)

    with pytest.raises(CorruptStoreError, match=r"damaged|ends with"):
        backup_of(source, tmp_path / "backup", end_index=41)
    assert not (tmp_path / "backup" / MANIFEST).exists()


def test_a_restored_folder_remembers_the_term_and_no_vote(tmp_path, source):
    backup_of(source, tmp_path / "backup")
    restored = config_of(tmp_path / "new" / "data", group="again", node_id="n2")

    restore(tmp_path / "backup", restored, may_vote=True)

    folder = DataFolder.open(
        OsDisk(), restored.data_folder, group="again", node_id="n2", config=STORE, joining=True
    )
    assert (folder.vote.current_term, folder.vote.voted_for, folder.vote.joining) == (
        3,
        None,
        False,
    )
    assert not folder.is_new
    folder.close()
    store = LedgerStore.open(OsDisk(), STORE, restored.data_folder)
    assert (store.end_index, store.checkpoint_commit_index) == (41, 41)
    store.close()
    write(restored, 20, 900, term=4)  # it has room, and goes on
    assert len(entries(tmp_path / "new")) == 61


def test_a_member_of_a_living_group_may_not_vote_at_first(tmp_path, source):
    backup_of(source, tmp_path / "backup")
    restored = config_of(tmp_path / "new" / "data")

    restore(tmp_path / "backup", restored, may_vote=False)

    folder = DataFolder.open(
        OsDisk(), restored.data_folder, group="orders", node_id="n1", config=STORE, joining=False
    )
    assert folder.vote.joining
    assert folder.vote.voted_for is None
    folder.close()


def test_what_retention_takes_away_meanwhile_is_not_in_it(tmp_path, source):
    """The copy begins again behind it, with the state that says what the rest amounted to."""
    store = LedgerStore.open(OsDisk(), STORE, source.data_folder)
    seen = itertools.count()

    def progress(_):
        if next(seen) == 20:
            store.begin_checkpoint(41).run()
            store.drop_before(3 * SEGMENT_SIZE)
            base = store.base
            data = encode_state(base, queues=[], producers=msgpack.packb([0, []]), metadata={})
            (tmp_path / "n1" / "data" / "derived").mkdir()
            (tmp_path / "n1" / "data" / "derived" / file_name(base.index)).write_bytes(data)

    manifest = backup_of(source, tmp_path / "backup", end_index=41, progress=progress)

    assert manifest.begin_index == store.base.index + 1 > 1
    assert manifest.state_index == store.base.index
    assert entries(tmp_path / "backup") == entries(tmp_path / "n1")
    names = sorted(path.name for path in (tmp_path / "backup" / "commitlog").iterdir())
    assert names[0] == f"{3 * SEGMENT_SIZE:020d}"
    store.close()
    restore(tmp_path / "backup", config_of(tmp_path / "new" / "data", group="again"), may_vote=True)
    assert (tmp_path / "new" / "data" / "derived" / file_name(manifest.state_index)).exists()


def test_a_beginning_without_its_state_is_no_backup(tmp_path, source):
    store = LedgerStore.open(OsDisk(), STORE, source.data_folder)
    store.begin_checkpoint(41).run()
    store.drop_before(3 * SEGMENT_SIZE)
    base = store.base
    store.close()
    folder = tmp_path / "n1" / "data" / "derived"
    folder.mkdir()
    (folder / file_name(base.index)).write_bytes(b"DLS1 and no more")

    with pytest.raises(CorruptStoreError, match="take the backup from another member"):
        backup_of(source, tmp_path / "backup")
    other = msgspec.structs.replace(base, chain_crc=base.chain_crc ^ 1)
    data = encode_state(other, queues=[], producers=msgpack.packb([0, []]), metadata={})
    (folder / file_name(base.index)).write_bytes(data)
    clear(tmp_path / "backup")
    with pytest.raises(CorruptStoreError, match="of another log"):
        backup_of(source, tmp_path / "backup")


def test_a_backup_that_was_cut_short_or_changed_is_refused(tmp_path, source):
    backup = tmp_path / "backup"
    new = config_of(tmp_path / "new" / "data", group="again")
    backup_of(source, backup)
    manifest = (backup / MANIFEST).read_bytes()

    def refuse(error, match):
        with pytest.raises(error, match=match):
            restore(backup, new, may_vote=True)
        clear(tmp_path / "new")

    (backup / MANIFEST).unlink()
    refuse(ConfigError, "cut short")
    (backup / MANIFEST).write_bytes(b"[]")
    refuse(ConfigError, "no JSON object")
    for key, value in [("entries", "41"), ("is_hot", 1), ("end_index", None)]:
        (backup / MANIFEST).write_text(json.dumps(json.loads(manifest) | {key: value}))
        refuse(ConfigError, key)
    for key in ("backup_version", "format_version"):
        (backup / MANIFEST).write_text(json.dumps(json.loads(manifest) | {key: 99}))
        refuse(FolderMismatchError, f"{key} is 99")
    (backup / MANIFEST).write_text(json.dumps(json.loads(manifest) | {"end_chain_crc": 1}))
    refuse(CorruptStoreError, "backup.json says")
    (backup / MANIFEST).write_bytes(manifest)
    segment = backup / "commitlog" / f"{0:020d}"
    data = bytearray(segment.read_bytes())
    data[100] ^= 1
    segment.write_bytes(data)
    refuse(CorruptStoreError, "damaged|ends with")
    assert not (tmp_path / "new" / "data" / "identity.json").exists()


def test_a_restore_changes_nothing_that_is_there(tmp_path, source):
    backup_of(source, tmp_path / "backup")

    with pytest.raises(ConfigError, match="holds"):
        restore(tmp_path / "backup", source, may_vote=True)
    with pytest.raises(ConfigError, match="holds"):
        backup_of(source, tmp_path / "backup")
    with pytest.raises(FolderMismatchError, match="segment_size is 4096 in the backup"):
        restore(tmp_path / "backup", config_of(tmp_path / "x", segment_size=8192), may_vote=True)


def test_the_manifest_reads_back(tmp_path, source):
    assert backup_of(source, tmp_path / "backup") == Manifest.read(tmp_path / "backup")


@pytest.mark.parametrize(
    ("group", "port", "into", "words"),
    [
        ("orders", 19000, "new-group", "would take part in both"),
        ("again", 19000, "old-group", "say --into new-group"),
        ("orders", 19500, "living-group", "say --into new-group"),
        ("orders", 19000, "old-group", ""),
        ("orders", 19000, "living-group", ""),
        ("again", 19000, "new-group", ""),
        ("orders", 19500, "new-group", ""),
    ],
)
def test_a_backup_goes_only_where_it_is_said_to_go(
    tmp_path, source, capsys, group, port, into, words
):
    backup_of(source, tmp_path / "backup", end_index=41)
    path = tmp_path / "other" / "node.toml"
    path.parent.mkdir()
    path.write_text(dump_config(config_of("data", group=group, port=port)))

    with pytest.raises(SystemExit) as ended:
        main(["restore", str(tmp_path / "backup"), "-c", str(path), "--into", into])

    told = capsys.readouterr()
    assert ended.value.code == (1 if words else 0), told.err
    assert words in told.err
    assert (tmp_path / "other" / "data" / "identity.json").exists() == (not words)


def test_the_tail_of_a_stopped_node_goes_into_no_living_group(tmp_path, source, capsys):
    """Its last entries may never have been committed: the group may have others there."""
    backup_of(source, tmp_path / "backup")
    path = tmp_path / "other" / "node.toml"
    path.parent.mkdir()
    path.write_text(dump_config(config_of("data")))

    with pytest.raises(SystemExit) as ended:
        main(["restore", str(tmp_path / "backup"), "-c", str(path), "--into", "living-group"])

    assert ended.value.code == 1
    assert "the backup is of a node that was stopped" in capsys.readouterr().err
    assert not (tmp_path / "other" / "data").exists()


def test_a_node_that_does_not_run_is_copied_as_it_is(tmp_path, source, capsys):
    path = tmp_path / "n1" / "node.toml"
    path.write_text(dump_config(dataclasses.replace(source, data_folder="data")))

    with pytest.raises(SystemExit) as ended:
        main(["backup", str(tmp_path / "backup"), "-c", str(path), "--json"])

    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["end_index"] == 41


def test_the_local_group_is_what_is_copied_unless_told_otherwise(
    tmp_path, source, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["backup", "kept", "--node", "n1"])
    assert ended.value.code == 1
    assert "no group in .dledger; say which node" in capsys.readouterr().err
    home = tmp_path / ".dledger" / "n1"
    home.mkdir(parents=True)
    (home / "node.toml").write_text(dump_config(source))

    with pytest.raises(SystemExit) as ended:
        main(["backup", "kept", "--node", "n1", "--json"])

    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["end_index"] == 41

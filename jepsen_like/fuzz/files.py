"""Readers of files: settings, vote, checkpoint, state, index, and a data folder as a whole."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from broker.config_file import dump_config, load_config, parse_config
from broker.metadata.name_config import NameConfig, put_name, wipe_broker
from broker.nameserver.names_file import decode_names, encode_names
from broker.store.state_file import CorruptStateError, decode_state
from dledger.errors import ConfigError, CorruptStoreError, StorageFailedError
from dledger.store.checkpoint import CheckpointFile, WatermarkFile
from dledger.store.os_disk import OsDisk
from dledger.store.slot_file import FILE_SIZE, PAYLOAD_SIZE_MAX, SLOT_OFFSETS
from dledger.store.vote_file import VoteFile
from jepsen_like.fuzz.folder import (
    REFUSED,
    Files,
    check_open,
    config_of,
    image,
    scratch,
    write_files,
)
from jepsen_like.fuzz.target import Target, must_be, must_say

if TYPE_CHECKING:
    from collections.abc import Callable

_SLOT_HEAD = struct.Struct(">4sHHQ")
_MAGICS = {"checkpoint": b"DLCK", "watermark": b"DLWM", "vote": b"DLVT"}


# -- small files with two slots -----------------------------------------------------------------


def _slot(magic: bytes, sequence: int, payload: bytes) -> bytes:
    record = _SLOT_HEAD.pack(magic, 1, len(payload), sequence) + payload
    return record + struct.pack(">I", zlib.crc32(record))


def slots_with(magic: bytes, payload: bytes) -> bytes:
    """Return a file whose two slots are sound and hold *payload*, whatever it is."""
    content = bytearray(FILE_SIZE)
    for sequence, offset in enumerate(SLOT_OFFSETS):
        slot = _slot(magic, sequence, payload[:PAYLOAD_SIZE_MAX])
        content[offset : offset + len(slot)] = slot
    return bytes(content)


def _payload_of(name: str) -> bytes:
    content = image(with_retention=True).files[name]
    (size,) = struct.unpack_from(">H", content, 6)
    return content[_SLOT_HEAD.size : _SLOT_HEAD.size + size]


def _slot_seeds(*names: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        found = [image(with_retention=True).files[name] for name in names]
        return [b"\0" + content for content in found] + [
            b"\1" + _payload_of(name) for name in names
        ]

    return seeds


def _run_slots(data: bytes, *names: str) -> None:
    """Open a file: *data* as it is, or behind an odd first byte as the payload of sound slots."""
    folder = scratch()
    disk = OsDisk()
    try:
        for name in names:
            path = folder / name
            is_payload = bool(data) and data[0] % 2 == 1
            content = slots_with(_MAGICS[name], data[1:]) if is_payload else data[1:]
            path.write_bytes(content)
            try:
                _open_small(disk, name, str(path))
            except CorruptStoreError as error:
                must_be(name != "watermark", "a mere hint must not be missed")
                must_say(error, names=str(path))
    finally:
        shutil.rmtree(folder)


def _open_small(disk: OsDisk, name: str, path: str) -> None:
    if name == "checkpoint":
        checkpoints = CheckpointFile.open(disk, path)
        last = checkpoints.last
        must_be(0 <= last.base.index <= last.synced.index, f"{last} makes no sense")
        checkpoints.close()
    elif name == "watermark":
        watermark = WatermarkFile.open(disk, path)
        must_be(watermark.index >= 0, "a negative watermark")
        watermark.close()
    else:
        vote = VoteFile.open(disk, str(Path(path).parent), joining=False)
        must_be(vote.current_term >= 0, "a negative term")
        vote.close()


def run_checkpoint(data: bytes) -> None:
    """Open a checkpoint and a watermark."""
    _run_slots(data, "checkpoint", "watermark")


def run_vote(data: bytes) -> None:
    """Open a vote file."""
    _run_slots(data, "vote")


# -- state --------------------------------------------------------------------------------------


def _state_files() -> list[str]:
    return [name for name in image(with_retention=True).files if "/state-" in name]


def _state_seeds() -> list[bytes]:
    files = image(with_retention=True).files
    return [bytes((n,)) + files[name][8 * n :] for name in _state_files() for n in (0, 1)]


def run_state(data: bytes) -> None:
    """Read a state, and start from it; behind an odd first byte its checksum is right."""
    content = data[1:]
    if data[:1] and data[0] % 2:
        content = b"DLS1" + struct.pack(">I", zlib.crc32(content)) + content
    try:
        decode_state(content)
    except CorruptStateError as error:
        must_say(error)
    sound = image(with_retention=True)
    files = dict(sound.files) | dict.fromkeys(_state_files(), content)
    check_open(sound, files, is_touched=lambda name: name in _state_files())


# -- a whole folder -----------------------------------------------------------------------------


def apply_damage(files: Files, data: bytes) -> set[str]:
    """Change *files* as *data* says; return the names of those changed.

    Six bytes a change: which file, what, where (two bytes), how many bytes, and a value.
    """
    touched: set[str] = set()
    names = sorted(files)
    for at in range(0, len(data) - 5, 6):
        which, what, high, low, count, value = data[at : at + 6]
        name = names[which % len(names)]
        if name not in files:
            continue
        content = bytearray(files[name])
        offset = (high << 8 | low) % (len(content) + 1)
        match what % 7:
            case 0:
                content[offset : offset + 1] = bytes(
                    byte ^ (value or 1) for byte in content[offset : offset + 1]
                )
            case 1:
                del content[offset:]
            case 2:
                end = min(offset + count, len(content))
                content[offset:end] = bytes((value,)) * (end - offset)
            case 3:
                del files[name]
                touched.add(name)
                continue
            case 4:
                content += bytes((value,)) * count
            case 5:
                other = files.get(names[value % len(names)], b"")
                end = min(offset + 16 * count, len(content), len(other))
                content[offset:end] = other[offset:end]
            case _:
                del content[offset : offset + count]
        if bytes(content) != files[name]:
            files[name] = bytes(content)
            touched.add(name)
    return touched


def _folder_seeds() -> list[bytes]:
    names = sorted(image(with_retention=False).files)
    return [
        bytes((kind,)) + bytes((number, what, 0, 40, 4, 255))
        for kind in (0, 1)
        for number in range(len(names))
        for what in range(7)
    ]


def run_folder(data: bytes) -> None:
    """Damage a data folder as *data* says and start from it."""
    sound = image(with_retention=bool(data) and data[0] % 2 == 1)
    files = dict(sound.files)
    touched = apply_damage(files, data[1:])
    check_open(sound, files, is_touched=lambda name: name in touched)


def _index_seeds() -> list[bytes]:
    return [image(with_retention=True).files["index/00000000000000000000"]]


def run_index(data: bytes) -> None:
    """Start from a folder with *data* as its index file."""
    name = "index/00000000000000000000"
    for with_retention in (False, True):
        sound = image(with_retention=with_retention)
        whole = data.ljust(len(sound.files[name]), b"\0")[: len(sound.files[name])]
        check_open(
            sound, dict(sound.files) | {name: whole}, is_touched=lambda touched: touched == name
        )


def _queue_seeds() -> list[bytes]:
    return [image(with_retention=True).files["derived/consumequeue/t/0/00000000000000000000"]]


def run_queue(data: bytes) -> None:
    """Start from a folder with *data* as its consume queue."""
    name = "derived/consumequeue/t/0/00000000000000000000"
    for with_retention in (False, True):
        sound = image(with_retention=with_retention)
        check_open(
            sound, dict(sound.files) | {name: data}, is_touched=lambda touched: touched == name
        )


def _identity_seeds() -> list[bytes]:
    content = image(with_retention=False).files["identity.json"]
    return [content, b"[" * 5000, json.dumps({"format_version": 2}).encode()]


def run_identity(data: bytes) -> None:
    """Start from a folder with *data* as its identity."""
    sound = image(with_retention=False)
    said = check_open(
        sound, dict(sound.files) | {"identity.json": data}, is_touched=lambda _name: False
    )
    must_be(said in (REFUSED, "0 damaged, read"), f"an identity gives {said}")


# -- settings -----------------------------------------------------------------------------------

_TOML = """[node]
group = "g"
node_id = "n1"
data_folder = "data"
listen_host = ""
[[member]]
node_id = "n1"
host = "127.0.0.1"
peer_port = 7001
broker_port = 9001
advertised_host = "h"
[store]
segment_size = "64MiB"
flush_disk_type = "ASYNC_FLUSH"
log_size_max = "1.5 GiB"
[raft]
heartbeat_interval_ms = 75
[broker]
log_level = "info"
auto_create_topic = true
"""


def _config_seeds() -> list[bytes]:
    return [
        _TOML.encode(),
        dump_config(config_of(Path("/data"))).encode(),
        b"a = " + b"[" * 3000,
        _TOML.replace('"64MiB"', '"' + "9" * 400 + 'TiB"').encode(),
        _TOML.replace("= 75", "= 0x" + "f" * 5000).encode(),
        _TOML.replace("= 75", "= " + "9" * 5000).encode(),
        _TOML.replace('"data"', '"~nobody-of-that-name/x"').encode(),
        _TOML.replace('"data"', '"a\\u0000b"').encode(),
        _TOML.replace("= 7001", "= 1979-05-27").encode(),
        b"\xff\xfe",
    ]


def run_config(data: bytes) -> None:
    """Read settings; what is taken can be written and read back."""
    folder = scratch()
    path = folder / "node.toml"
    try:
        write_files(folder, {"node.toml": data})
        try:
            config = load_config(path)
        except ConfigError as error:
            must_say(error, names=str(path))
            return
        again = parse_config(dump_config(config), base_folder=folder)
        must_be(again == config, "settings read back differently")
        must_be("\0" not in config.data_folder, "no folder can have that name")
        with suppress(ConfigError):
            config.to_ledger_config()
    finally:
        shutil.rmtree(folder)


# -- a name server's file -----------------------------------------------------------------------


def _names_seeds() -> list[bytes]:
    names = NameConfig()
    for wanted in (put_name("ns", "k", "v"), put_name("ns", "x", ""), wipe_broker("b")):
        names.appliers[wanted.kind](wanted.args)
    return [encode_names(names), b'{"configTable":{}}', b"[" * 5000]


def run_names(data: bytes) -> None:
    """Read *data* as kvConfig.json; what is understood is written and read again."""
    try:
        names = decode_names(data, "kvConfig.json")
    except StorageFailedError as error:
        must_say(error, names="kvConfig.json")
        return
    again = decode_names(encode_names(names), "kvConfig.json")
    must_be(again.snapshot() == names.snapshot(), "the settings read back differently")


TARGETS = [
    Target(
        "checkpoint", "checkpoint and watermark", _slot_seeds("checkpoint", "watermark"),
        run_checkpoint,
    ),
    Target("vote", "the vote file", _slot_seeds("vote"), run_vote),
    Target("state", "state files, and a start from one", _state_seeds, run_state),
    Target("index", "the index, and a start with it", _index_seeds, run_index),
    Target("queue", "a consume queue, and a start with it", _queue_seeds, run_queue),
    Target("identity", "identity.json", _identity_seeds, run_identity),
    Target("folder", "a data folder with damage in any file", _folder_seeds, run_folder),
    Target("config", "node.toml", _config_seeds, run_config),
    Target("names", "kvConfig.json of a name server", _names_seeds, run_names),
]  # fmt: skip

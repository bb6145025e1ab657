"""What a name server of its own keeps for others, in one file that is replaced as a whole.

``kvConfig.json`` is RocketMQ's file, and one of RocketMQ can be taken over; ``wipedBrokers`` is
ours:

    {"configTable":{NAMESPACE:{KEY:VALUE}},"wipedBrokers":[NAME]}

A change is told to nobody, and answered, only when it is on disk.

Source: RocketMQ ``KVConfigManager``, ``KVConfigSerializeWrapper``.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from broker.errors import BrokerError
from broker.handlers.registry import answer, error_response
from broker.metadata.name_config import NameConfig, put_name, wipe_broker
from dledger.errors import LedgerBusyError, LedgerError, StorageFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.metadata.state_machine import MetadataCommand
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session
    from dledger.store.disk import Disk, FolderLock
    from dledger.worker import Worker

FILE_NAME: Final = "kvConfig.json"
WAITING_MAX: Final = 1000  # changes that wait for the disk; one more is refused

logger = logging.getLogger(__name__)

_Change = tuple["Session", "Command", "MetadataCommand", "Callable[[Any], Command]"]


class NamesFile:
    """The file, and what it holds."""

    def __init__(self, disk: Disk, folder: str, lock: FolderLock, names: NameConfig) -> None:
        self.names = names
        self._disk = disk
        self._path = f"{folder}/{FILE_NAME}"
        self._lock = lock
        self._worker: Worker | None = None
        self._waiting: list[_Change] = []
        self._writing = 0  # changes that are being written

    @classmethod
    def open(cls, disk: Disk, folder: str) -> NamesFile:
        """Take hold of *folder*, which is made if need be, and read the file; blocking.

        Raises:
            LedgerError: the folder is in use, cannot be made, or the file is none of this kind.
        """
        disk.make_folder(folder)
        lock = disk.lock_folder(folder)
        path = f"{folder}/{FILE_NAME}"
        try:
            names = decode_names(disk.read_file(path), path) if disk.exists(path) else NameConfig()
        except BaseException:
            lock.release()
            raise
        return cls(disk, folder, lock, names)

    def use(self, worker: Worker) -> None:
        """Write by *worker*; call once, before anything is changed."""
        self._worker = worker

    @property
    def is_busy(self) -> bool:
        """Whether a change is not answered yet."""
        return bool(self._waiting or self._writing)

    def propose(
        self,
        session: Session,
        command: Command,
        wanted: MetadataCommand,
        finish: Callable[[Any], Command],
    ) -> None:
        """Make the change *wanted*, and answer *command* with what *finish* makes of it.

        Raises:
            LedgerBusyError: too many wait.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise LedgerBusyError(f"{WAITING_MAX} changes wait for the disk already")
        self._waiting.append((session, command, wanted, finish))
        if not self._writing:
            self._write()

    def close(self) -> None:
        """Let the folder go."""
        if self._worker is not None:
            self._worker.drain()
            self._worker.close()
        self._lock.release()

    def _write(self) -> None:
        """Write all that waits, as one."""
        assert self._worker is not None
        changes, self._waiting = self._waiting, []
        self._writing = len(changes)
        fresh = NameConfig()
        fresh.restore(self.names.snapshot())
        results = [fresh.appliers[wanted.kind](wanted.args) for _, _, wanted, _ in changes]
        data = encode_names(fresh)

        def done(failure: BaseException | None) -> None:
            if failure is not None and not isinstance(failure, LedgerError):
                raise failure
            if failure is None:
                self.names.restore(fresh.snapshot())
            else:
                logger.error("%s cannot be written: %s", self._path, failure)
            for (session, command, _, finish), result in zip(changes, results, strict=True):
                reply = finish(result) if failure is None else error_response(command, failure)
                answer(session, command, reply)
                if not session.closed:
                    session.flush_soon()
            self._writing = 0
            if self._waiting:
                self._write()

        self._worker.submit(lambda: self._disk.write_file_atomic(self._path, data), done)


def encode_names(names: NameConfig) -> bytes:
    """Return the content of the file."""
    rows, wiped = names.snapshot() or ([], [])
    table: dict[str, dict[str, str]] = {}
    for namespace, key, value in rows:
        table.setdefault(namespace, {})[key] = value
    return json.dumps({"configTable": table, "wipedBrokers": wiped}, indent=1).encode() + b"\n"


def decode_names(data: bytes, path: str) -> NameConfig:
    """Return what the file at *path* holds.

    Raises:
        StorageFailedError: it is none of this kind.
    """
    names = NameConfig()
    try:
        content = json.loads(data)
        for namespace, keys in content["configTable"].items():
            for key, value in keys.items():
                command = put_name(namespace, key, value)
                names.appliers[command.kind](command.args)
        for broker in content.get("wipedBrokers", []):
            command = wipe_broker(broker)
            names.appliers[command.kind](command.args)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BrokerError) as error:
        raise StorageFailedError(
            f"{path} is no file of settings: {type(error).__name__}: {error}; move it away, or "
            "mend it"
        ) from error
    return names

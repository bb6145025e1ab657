"""What may go wrong in the ledger, sorted by what the caller may do next."""

from __future__ import annotations


class LedgerError(Exception):
    """Base class; never raised itself."""


class NotLeaderError(LedgerError):
    """Nothing was appended: send again, to *leader_id* when it is known."""

    def __init__(self, message: str, *, leader_id: str | None = None) -> None:
        super().__init__(message)
        self.leader_id = leader_id


class LedgerBusyError(LedgerError):
    """Nothing was appended: a limit is reached, send again later."""


class LedgerFullError(LedgerError):
    """Nothing was appended: the disk has no room for another segment."""


class EntryTooLargeError(LedgerError):
    """Nothing was appended: no entry may be that large; send less at a time."""


class OutcomeUnknownError(LedgerError):
    """The entry may still commit: sending again can duplicate it."""


class StorageFailedError(LedgerError):
    """A write or a sync failed: stop the process, never retry the sync."""


class CorruptStoreError(LedgerError):
    """A file does not hold what was once written and synced; the message names file and remedy."""


class CorruptEntryError(LedgerError):
    """Bytes that should be an entry are not one: wrong magic, length, position or CRC."""


class FolderMismatchError(LedgerError):
    """The data folder belongs to another node, group, layout or version of the format."""


class FolderInUseError(LedgerError):
    """Another process holds the data folder."""


class ConfigError(LedgerError):
    """A setting is missing, of the wrong type or out of range; the message names key and remedy."""


class HandshakeRefusedError(LedgerError):
    """A peer does not belong to this group as configured; the message says why."""


class PoisonEntryError(LedgerError):
    """A committed entry cannot be applied: every replica would stop at it, so this one does too."""


class SafetyViolationError(LedgerError):
    """A rule of Raft was about to be broken (a committed entry cut, say): stop, touch nothing."""

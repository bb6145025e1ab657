"""A file system synced by one call, and of which failures that tells; the system is faked."""

from __future__ import annotations

import ctypes
import errno
import os
import threading

import pytest

from dledger.store import tree_sync


class ExtLibrary:
    """A libc on ext4: who syncs is told of what failed and nobody was told of."""

    def __init__(self):
        self.is_untold = False
        self.synced = []
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()

    def fstatfs(self, fd, found):
        ctypes.c_ulong.from_buffer(found).value = 0xEF53
        return 0

    def syncfs(self, fd):
        self.begun.set()
        self.may_end.wait()
        os.fstat(fd.value)  # must be open still
        self.synced.append(fd.value)
        if self.is_untold:
            self.is_untold = False
            ctypes.set_errno(errno.EIO)
            return -1
        return 0


@pytest.fixture
def library(monkeypatch):
    library = ExtLibrary()
    monkeypatch.setattr(tree_sync, "_library", lambda: library)
    monkeypatch.setattr(tree_sync, "_heard_out", set(), raising=False)
    return library


def test_a_failure_before_the_start_does_not_stop_the_node_that_starts(library, tmp_path, caplog):
    """The kernel tells a descriptor opened later, too, when nobody has been told."""
    library.is_untold = True

    tree = tree_sync.open_tree(str(tmp_path))
    tree.sync()

    assert "failed before this start" in caplog.text
    tree.close()


def test_a_failure_from_then_on_is_told(library, tmp_path):
    tree_sync.open_tree(str(tmp_path)).close()
    library.is_untold = True
    tree = tree_sync.open_tree(str(tmp_path))
    assert len(library.synced) == 1  # the first of the process alone syncs by itself

    with pytest.raises(OSError, match="Input/output error"):
        tree.sync()
    tree.close()


def test_a_tree_that_is_closed_while_it_syncs_keeps_its_number_until_the_end(library, tmp_path):
    """Another file given that number by the system would be synced, or closed, in its place."""
    tree = tree_sync.open_tree(str(tmp_path))
    library.begun.clear()
    library.may_end.clear()
    failures = []

    def sync():
        try:
            tree.sync()
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=sync)
    thread.start()
    library.begun.wait()
    tree.close()
    tree.close()
    library.may_end.set()
    thread.join()

    assert failures == []
    with pytest.raises(OSError, match="closed"):
        tree.sync()

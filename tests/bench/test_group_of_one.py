"""What is proved of a group of one at the end of a benchmark: its log is whole."""

import pytest

from bench.group import BenchGroup
from dledger.config import FlushDiskType, StoreConfig
from dledger.errors import CorruptStoreError
from dledger.store.ledger_store import LedgerStore
from dledger.store.os_disk import OsDisk

SEGMENT_SIZE = 16 * 1024


def test_the_log_of_a_group_of_one_is_read_and_damage_in_it_found(tmp_path):
    group = BenchGroup(
        tmp_path, flush=FlushDiskType.SYNC_FLUSH, segment_size=SEGMENT_SIZE, node_count=1
    )
    [node] = group.nodes
    data = node.folder / "data"
    config = StoreConfig(segment_size=SEGMENT_SIZE, index_file_units=1024)
    store = LedgerStore.open(OsDisk(), config, str(data))
    for _ in range(3):
        store.append(kind=1, channel=0, term=1, body=[b"x" * 100], body_size=100)
    ticket = store.begin_sync()
    ticket.run()
    store.finish_sync(ticket)

    entry_count, log_size = group.compare_logs()
    assert entry_count == 3
    assert log_size > 300

    with (data / "commitlog" / f"{0:020d}").open("r+b") as file:
        file.seek(log_size - 1)
        file.write(b"y")
    with pytest.raises(CorruptStoreError, match="entry 3"):
        group.compare_logs()

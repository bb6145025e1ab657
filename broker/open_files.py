"""What a node's data folder holds: taken hold of, and recovered, before anything is wired to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.groups.consumers import Consumers
from broker.groups.locks import QueueLocks
from broker.metadata.consumer_offsets import ConsumerOffsets
from broker.metadata.name_config import NameConfig
from broker.metadata.queue_trims import QueueTrims
from broker.metadata.state_machine import StateMachine
from broker.metadata.subscription_groups import SubscriptionGroups
from broker.metadata.topics import Topics
from broker.metrics.traffic import Traffic
from broker.store.derived import DerivedState
from broker.store.key_index import shape_for
from broker.store.topic_rates import TopicRates
from dledger.store.data_folder import DataFolder
from dledger.store.ledger_store import LedgerStore

if TYPE_CHECKING:
    from broker.config import NodeConfig
    from dledger.store.disk import Disk


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFiles:
    """What `open_files` found in a node's data folder."""

    folder: DataFolder
    store: LedgerStore
    derived: DerivedState
    topics: Topics
    groups: SubscriptionGroups
    offsets: ConsumerOffsets
    traffic: Traffic
    topic_rates: TopicRates
    consumers: Consumers
    locks: QueueLocks
    names: NameConfig


def open_files(config: NodeConfig, disk: Disk) -> OpenFiles:
    """Take hold of the data folder and recover what is in it; blocking.

    Raises:
        LedgerError: the folder is in use, another node's, damaged, or the disk has no room.
    """
    folder = DataFolder.open(
        disk,
        config.data_folder,
        group=config.group,
        node_id=config.node_id,
        config=config.store,
        joining=len(config.members) > 1,
    )
    store: LedgerStore | None = None
    try:
        store = LedgerStore.open(disk, config.store, config.data_folder)
        topics, groups = Topics(), SubscriptionGroups()
        offsets, consumers = ConsumerOffsets(topics), Consumers()
        locks = QueueLocks(
            topics=topics,
            group_exists=lambda group: group in groups or offsets.has_group(group),
        )
        names, traffic, topic_rates = NameConfig(), Traffic(), TopicRates()
        derived = DerivedState.open(
            disk,
            f"{config.data_folder}/derived",
            store,
            commit_index=store.checkpoint_commit_index,
            segment_size=config.store.segment_size,
            metadata=StateMachine([topics, groups, offsets, consumers, locks, names, QueueTrims()]),
            dispatchers=[traffic, topic_rates],
            index_shape=shape_for(
                config.store.segment_size,
                slot_count=config.broker.key_index_slot_count,
                entry_count=config.broker.key_index_entry_count,
            ),
        )
    except BaseException:
        if store is not None:
            store.close()
        folder.close()
        raise
    return OpenFiles(
        folder=folder,
        store=store,
        derived=derived,
        topics=topics,
        groups=groups,
        offsets=offsets,
        traffic=traffic,
        topic_rates=topic_rates,
        consumers=consumers,
        locks=locks,
        names=names,
    )

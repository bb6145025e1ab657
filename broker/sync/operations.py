"""What an operator asks, looks up and sends again, blocking."""

from __future__ import annotations

from typing import Any

from broker.client.admin import Admin
from broker.client.dead_letters import DeadLetters
from broker.client.lookup import Lookup
from broker.client.portal import call_blocking
from broker.sync.mirror import Mirror, blocking


class SyncAdmin(Mirror):
    """See `broker.Admin`."""

    create_topic = blocking(Admin.create_topic)
    alter_topic = blocking(Admin.alter_topic)
    delete_topic = blocking(Admin.delete_topic)
    list_topics = blocking(Admin.list_topics)
    describe_topic = blocking(Admin.describe_topic)
    delete_group = blocking(Admin.delete_group)
    list_groups = blocking(Admin.list_groups)
    describe_group = blocking(Admin.describe_group)
    group_progress = blocking(Admin.group_progress)
    reset_offsets = blocking(Admin.reset_offsets)
    group_status = blocking(Admin.group_status)
    transfer_leadership = blocking(Admin.transfer_leadership)
    max_offset = blocking(Admin.max_offset)
    min_offset = blocking(Admin.min_offset)
    committed_offset = blocking(Admin.committed_offset)
    commit_offset = blocking(Admin.commit_offset)

    # Types of keywords that are not named cannot be passed on by `blocking`.

    def create_group(self, name: str, **settings: Any) -> None:  # noqa: ANN401 - as there
        """See `broker.Admin.create_group`."""
        call_blocking(self._portal, self._real.create_group, name, **settings)

    def alter_group(self, name: str, **settings: Any) -> None:  # noqa: ANN401 - as there
        """See `broker.Admin.alter_group`."""
        call_blocking(self._portal, self._real.alter_group, name, **settings)


class SyncLookup(Mirror):
    """See `broker.Lookup`."""

    at = blocking(Lookup.at)
    by_id = blocking(Lookup.by_id)
    by_key = blocking(Lookup.by_key)
    by_unique_key = blocking(Lookup.by_unique_key)
    offset_at = blocking(Lookup.offset_at)
    earliest_store_time = blocking(Lookup.earliest_store_time)


class SyncDeadLetters(Mirror):
    """See `broker.DeadLetters`."""

    @property
    def group(self) -> str:
        """Whose they are."""
        return str(self._real.group)

    @property
    def topic(self) -> str:
        """Where they lie."""
        return str(self._real.topic)

    count = blocking(DeadLetters.count)
    read = blocking(DeadLetters.read)
    resend = blocking(DeadLetters.resend)
    done = blocking(DeadLetters.done)
    resend_all = blocking(DeadLetters.resend_all)

"""From the place a user names to where a consumer starts."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.cli.values import Place
    from broker.client.starts import Start

_WORDS = {"earliest": "first", "latest": "last", "committed": "committed"}


def consumer_start(place: Place) -> tuple[list[int] | None, Start]:
    """Return the queues that *place* means (None: all of them) and where each starts."""
    if place.kind == "offset":
        return None if place.queue_id is None else [place.queue_id], place.queue_offset
    if place.kind == "time":
        return None, datetime.datetime.fromtimestamp(place.time_ms / 1000, tz=datetime.UTC)
    return None, _WORDS[place.kind]

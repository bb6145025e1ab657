"""How a producer gathers and how long it tries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.client.acks import check_acks
from broker.client.compression import THRESHOLD_DEFAULT

if TYPE_CHECKING:
    from broker.client.acks import Acks, Flush
    from broker.client.compression import Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    """What a producer is told when it is made."""

    send_timeout: float = 15.0  # seconds from send() to the last moment its outcome is waited for
    batch_size_max: int = 256 * 1024  # bytes of records in one request; one message may be larger
    batch_count_max: int = 1000  # messages in one request
    inflight_max: int = 5  # requests of one queue under way; 1 when not idempotent
    buffer_size_max: int = 64 * 1024 * 1024  # bytes of unsettled records; beyond it send() waits
    idempotent: bool = True  # have the broker recognise what it already has
    linger: float = 0.0  # seconds a batch waits for company; it leaves earlier once it is full
    compression: Compression | None = None
    compression_level: int | None = None  # None: what is usual for that way of compressing
    compression_threshold: int = THRESHOLD_DEFAULT  # bytes; smaller bodies stay as they are
    acks: Acks | None = None  # who has a copy when a send returns; None: as the topic has it
    flush: Flush | None = None  # whether on disk: sync, async; None: as the topic has it

    def __post_init__(self) -> None:
        for name in (
            "send_timeout",
            "batch_size_max",
            "batch_count_max",
            "inflight_max",
            "buffer_size_max",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        if not 0 <= self.linger < self.send_timeout:
            raise ValueError(
                f"linger = {self.linger}: must be 0 or more, and less than send_timeout = "
                f"{self.send_timeout}"
            )
        check_acks(self.acks, self.flush)
        if self.compression_threshold < 0:
            raise ValueError(f"compression_threshold = {self.compression_threshold}: at least 0")

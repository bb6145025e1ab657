"""What a node writes down of itself: where, in which form, and how that changes while it runs.

All code logs by the standard library.  Each line says which node wrote it and in which term, so
that the logs of a group can be laid side by side.  Three forms: ``text``, one plain line each;
``json``, one object each, for whoever gathers logs; ``console``, coloured, for people (both
structlog's).
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import Any

    from broker.config import BrokerConfig

TEXT_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(node)s/%(term)s %(name)s: %(message)s"
TEXT_DATE_FORMAT = "%Y-%m-%d %H:%M:%S"

logger = logging.getLogger(__name__)


class NodeLog:
    """The log of the one node of this process."""

    def __init__(self, config: BrokerConfig, *, node_id: str) -> None:
        """Set logging up as *config* says.

        Raises:
            OSError: ``log_file`` cannot be opened.
        """
        self.level = config.log_level
        self.term_of: Callable[[], int] | None = None  # set once the node knows of terms
        self._node_id = node_id
        self._file: _ReopenableHandler | None = None
        handler: logging.Handler
        if config.log_file:
            handler = self._file = _ReopenableHandler(config.log_file, encoding="utf-8")
        else:
            handler = logging.StreamHandler(sys.stderr)
        handler.addFilter(self._add_context)
        handler.setFormatter(make_formatter(config.log_format, stream=sys.stderr))
        root = logging.getLogger()
        for old in list(root.handlers):
            root.removeHandler(old)
            old.close()
        root.addHandler(handler)
        root.setLevel(self.level.upper())

    def set_level(self, level: str) -> None:
        """Write lines of *level* and above from now on; a change is told in the log itself."""
        if level != self.level:
            before, self.level = self.level, level
            logging.getLogger().setLevel(level.upper())
            logger.log(logging.getLogger().level, "log level is %s, was %s", level, before)

    def reopen(self) -> None:
        """Go on in a new file where the old one was renamed, as logrotate does."""
        if self._file is not None:
            self._file.reopen()

    def _add_context(self, record: logging.LogRecord) -> bool:
        record.node = self._node_id
        record.term = "-" if self.term_of is None else self.term_of()
        return True


class _ReopenableHandler(logging.FileHandler):
    def reopen(self) -> None:
        """Close the file and open one of the same name.

        When that fails the old one stays, and the failure is told there.
        """
        self.acquire()
        try:
            try:
                fresh = self._open()
            except OSError as error:
                failure: OSError | None = error
            else:
                failure = None
                old, self.stream = self.stream, fresh
                if old is not None:
                    with contextlib.suppress(OSError):
                        old.close()
        finally:
            self.release()
        if failure is not None:
            logger.error("the log file cannot be opened again: %s", failure)


def make_formatter(log_format: str, *, stream: TextIO) -> logging.Formatter:
    """Return what lays out lines as `BrokerConfig.log_format` names it."""
    if log_format == "text":
        return logging.Formatter(TEXT_FORMAT, TEXT_DATE_FORMAT)
    import structlog  # 0.1 s, and only for those who ask for it

    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    at_end: list[Any] = []
    if log_format == "json":
        at_end = [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            _add_time,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            _add_node,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *at_end,
            renderer,
        ],
    )


def _add_time(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # When it happened, not when it was laid out.
    record: logging.LogRecord = event["_record"]
    at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    event["timestamp"] = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _add_node(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record: Any = event["_record"]
    event["node"] = record.node
    if record.term != "-":
        event["term"] = record.term
    return event

"""A node on this machine, in a folder of its own.

DIR/node.toml       written once, then the user's
DIR/data/           the node's data folder
DIR/node.log        what the process says
DIR/node.pid        the process, told apart from a later one with the same id
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from broker.cli.processes import (
    ProcessMark,
    check_port_free,
    read_pid_file,
    start_process,
    write_pid_file,
)
from broker.config import NodeConfig
from broker.config_file import load_config
from dledger.config import MIB
from dledger.errors import ConfigError

if TYPE_CHECKING:
    import signal
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

NODE_COMMAND = (sys.executable, "-m", "broker.cli.main", "node", "start")

_LOG_SIZE_MAX = 16 * MIB


class LocalNode:
    """One node of a local group: its files and its process.

    Its ``node.toml`` may be missing or wrong: it can be stopped all the same, and the others used.
    """

    def __init__(self, folder: Path, config: NodeConfig | ConfigError) -> None:
        self.folder = folder
        self._config = config
        self.started: subprocess.Popen[bytes] | None = None  # by this very process
        self.command: Sequence[str] = ()  # what runs it instead of `NODE_COMMAND`
        self.outlives_us = True  # whether what `start` starts may outlive this very process

    @classmethod
    def read(cls, folder: Path) -> LocalNode:
        """Return the node that lives in *folder*."""
        try:
            return cls(folder, load_config(folder / "node.toml"))
        except ConfigError as error:
            return cls(folder, error)

    @property
    def config(self) -> NodeConfig:
        """Its settings.

        Raises:
            ConfigError: its ``node.toml`` is missing or wrong.
        """
        if isinstance(self._config, ConfigError):
            raise ConfigError(str(self._config))
        return self._config

    @property
    def is_readable(self) -> bool:
        """Whether its ``node.toml`` says something."""
        return not isinstance(self._config, ConfigError)

    @property
    def node_id(self) -> str:
        """The node's id, and the name of its folder."""
        return self._config.node_id if isinstance(self._config, NodeConfig) else self.folder.name

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return self.config.advertised_address

    @property
    def log_path(self) -> Path:
        """What the process says."""
        return self.folder / "node.log"

    @property
    def process(self) -> ProcessMark | None:
        """The node's process if it runs."""
        if self.started is not None:
            self.started.poll()  # lets the kernel forget a child that has ended
        return read_pid_file(self.folder / "node.pid")

    def check_ports(self) -> None:
        """Raise `ConfigError` unless the node can listen on its ports."""
        config = self.config
        for port, use in (
            (config.listen_broker_port, f"broker port of {self.node_id}"),
            (config.listen_peer_port, f"peer port of {self.node_id}"),
            (config.metrics.port, f"metrics port of {self.node_id}"),
        ):
            if not port:
                continue
            check_port_free(
                config.listen_host,
                port,
                use=use,
                remedy="stop it, or take other ports: dledger up --data ANOTHER --base-port 19876",
            )

    def start(self) -> None:
        """Start the process; it may still fail, as `last_words` then tell."""
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_SIZE_MAX:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        command = [*(self.command or NODE_COMMAND), "-c", str(self.folder / "node.toml")]
        self.started = start_process(command, log_path=self.log_path, outlives_us=self.outlives_us)
        mark = ProcessMark.of(self.started.pid)
        if mark is not None:
            write_pid_file(self.folder / "node.pid", mark)

    def send_signal(self, number: signal.Signals) -> ProcessMark | None:
        """Send *number* to the node's process; which it was, or None where none ran."""
        mark = self.process
        return mark if mark is not None and mark.send_signal(number) else None

    def last_words(self) -> str:
        """Return the last line of the node's log."""
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return "it said nothing"
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

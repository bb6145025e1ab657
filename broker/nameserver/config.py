"""Settings of a name server that is a process of its own: ``nameserver.toml``, one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from broker.config import BrokerConfig
from broker.config_file import convert_table, load_table
from dledger.config import check_host, check_port, check_range
from dledger.errors import ConfigError

DEFAULT_PORT = 9876


@dataclass(frozen=True, slots=True, kw_only=True)
class NameServerProcessConfig:
    """One name server."""

    data_folder: str  # what it keeps for others
    listen_host: str = "127.0.0.1"  # "" listens on every interface, IPv4 and IPv6
    port: int = DEFAULT_PORT
    connections_max: int = 10_000  # one more is closed at once
    order_message_enable: bool = False  # routes name the queues in which order is kept
    metrics_port: int = 0  # 0: nowhere
    metrics_host: str = ""  # "": as listen_host
    log_level: str = "info"
    log_format: str = "text"
    log_file: str = ""  # "": stderr

    def __post_init__(self) -> None:
        if not self.data_folder or "\0" in self.data_folder:
            raise ConfigError(
                f"data_folder = {self.data_folder!r}: name the folder that holds its data"
            )
        if self.listen_host:
            check_host("listen_host", self.listen_host)
        check_port("port", self.port)
        check_range("connections_max", self.connections_max, 1, 1_000_000)
        check_range("metrics_port", self.metrics_port, 0, 65_535)
        if self.metrics_host:
            check_host("metrics_host", self.metrics_host)
        if self.metrics_port == self.port:
            raise ConfigError(
                f"metrics_port = {self.metrics_port} is the port it listens on; take another one"
            )
        self.log_settings()

    def log_settings(self) -> BrokerConfig:
        """Return what a `NodeLog` is made of.

        Raises:
            ConfigError: one of them is none.
        """
        return BrokerConfig(
            log_level=self.log_level, log_format=self.log_format, log_file=self.log_file
        )

    def settings(self) -> dict[str, str]:
        """Return every setting by name, RocketMQ's names first."""
        return {
            "listenPort": str(self.port),
            "kvConfigPath": f"{self.data_folder}/kvConfig.json",
            "orderMessageEnable": "true" if self.order_message_enable else "false",
            "logLevel": self.log_level,
            "listen_host": self.listen_host,
            "connections_max": str(self.connections_max),
            "metrics_port": str(self.metrics_port),
        }


def load_name_server_config(path: Path) -> NameServerProcessConfig:
    """Read and check *path*; relative folders and files count from its folder.

    Raises:
        ConfigError: names file, key and remedy.
    """
    table = load_table(path, "nameserver", hint="docs/configuration.md shows one")
    for key in ("data_folder", "log_file"):
        value = table.get(key)
        if isinstance(value, str) and value:
            table[key] = str(path.parent / Path(value).expanduser())
    try:
        return convert_table("[nameserver] ", table, NameServerProcessConfig)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None

"""Groups by name: what ``dledger context`` keeps, in the user's configuration folder.

``$XDG_CONFIG_HOME/dledger/contexts.json`` (``~/.config`` when that is not set):

    {"current": "prod", "contexts": {"prod": {"servers": ["broker-1:9876"], "description": ""}}}
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dledger.config import check_name
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One group by its name."""

    name: str
    servers: tuple[str, ...]  # host:port
    description: str = ""


@dataclass(slots=True)
class Contexts:
    """All contexts of this user; `load`, change, `save`."""

    path: Path
    items: dict[str, Context] = field(default_factory=dict)
    current: str | None = None  # the one used when no command says otherwise

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ) -> Contexts:
        """Read the user's contexts; none where there is no file.

        Raises:
            ConfigError: the file is there and cannot be understood.
        """
        path = contexts_path(environment)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from None
        try:
            found = json.loads(text)
            items = {
                str(name): Context(
                    name=str(name),
                    servers=tuple(map(str, entry["servers"])),
                    description=str(entry.get("description", "")),
                )
                for name, entry in found["contexts"].items()
            }
            current = found.get("current")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path}: no file of contexts ({type(error).__name__}: {error}); mend or delete it"
            ) from None
        return cls(path, items, current if current in items else None)

    def save(self) -> None:
        """Write the file; a reader finds the old content or the new, never half of it.

        Raises:
            ConfigError: it cannot be written.
        """
        content = {
            "current": self.current,
            "contexts": {
                item.name: {"servers": list(item.servers), "description": item.description}
                for item in self.items.values()
            },
        }
        fresh = self.path.with_suffix(f".{os.getpid()}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            fresh.replace(self.path)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written: {error.strerror}") from None

    def get(self, name: str) -> Context:
        """Return the context *name*.

        Raises:
            ConfigError: there is none; says which there are.
        """
        if name not in self.items:
            known = ", ".join(self.items) or "none yet: `dledger context add NAME HOST:PORT,...`"
            raise ConfigError(f"there is no context {name!r}; there are: {known}")
        return self.items[name]

    def add(self, context: Context) -> None:
        """Add *context*, or put it in the place of the one with its name."""
        check_name("context name", context.name)
        self.items[context.name] = context

    def delete(self, name: str) -> None:
        """Forget the context *name*.

        Raises:
            ConfigError: there is none.
        """
        self.get(name)
        del self.items[name]
        if self.current == name:
            self.current = None


def contexts_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the contexts of this user are.

    Source: the XDG Base Directory Specification; a relative path in the variable does not count.
    """
    folder = environment.get("XDG_CONFIG_HOME", "")
    base = Path(folder) if folder.startswith("/") else Path.home() / ".config"
    return base / "dledger" / "contexts.json"

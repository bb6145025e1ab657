"""Control groups, of either version, as far as the laboratory uses them."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from pathlib import Path

from jepsen_like.real.proof import LabError

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """One controller: where groups are made, and how its files are called there."""

    folder: Path
    is_v2: bool


@functools.cache
def find_controller(name: str) -> Controller | None:
    """Return where the controller *name* (``memory``, ``cpu``) can be used; None: nowhere."""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, folder, kind, options, *_ = line.split()
        path = Path(folder)
        if kind == "cgroup" and name in options.split(",") and os.access(path, os.W_OK):
            return Controller(folder=path, is_v2=False)
        if kind == "cgroup2" and os.access(path, os.W_OK):
            offered = path / "cgroup.controllers"
            if offered.exists() and name in offered.read_text(encoding="ascii").split():
                return Controller(folder=path, is_v2=True)
    return None


def cgroup_folders(pattern: str) -> list[Path]:
    """Return the control groups whose name fits *pattern*, of both versions."""
    return [*ROOT.glob(pattern), *ROOT.glob(f"*/{pattern}")]


class ControlGroup:
    """One group under one controller."""

    def __init__(self, controller_name: str, group_name: str) -> None:
        """Make it.

        Raises:
            LabError: the controller is missing, or the kernel refuses.
        """
        controller = find_controller(controller_name)
        if controller is None:
            raise LabError(
                f"no control group controller `{controller_name}`: mount it under {ROOT}, or boot "
                "with it enabled"
            )
        self.is_v2 = controller.is_v2
        self.folder = controller.folder / group_name
        self._name = controller_name
        self._homes: dict[int, Path] = {}
        try:
            if self.is_v2:
                self._write(controller.folder / "cgroup.subtree_control", f"+{controller_name}")
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise LabError(f"{self.folder}: {error.strerror}") from error

    def write(self, name: str, value: str) -> None:
        """Write a setting.

        Raises:
            LabError: the kernel refuses.
        """
        try:
            self._write(self.folder / name, value)
        except OSError as error:
            raise LabError(f"{self.folder / name}: {value}: {error.strerror}") from error

    def read(self, name: str) -> str:
        """Return a setting or figure."""
        return (self.folder / name).read_text(encoding="ascii").strip()

    def figures(self, name: str) -> dict[str, int]:
        """Return a file of lines ``name number``."""
        lines = [line.split() for line in self.read(name).splitlines()]
        return {words[0]: int(words[1]) for words in lines if len(words) == 2}

    def take(self, pid: int) -> bool:
        """Move the process *pid* in; whether it is there now."""
        self._homes.setdefault(pid, self._home_of(pid))
        self.write("cgroup.procs", str(pid))
        return str(pid) in self.read("cgroup.procs").split()

    def release(self) -> None:
        """Move everybody to where they came from."""
        for pid in self.read("cgroup.procs").split():
            home = self._homes.get(int(pid), self.folder.parent)
            with contextlib.suppress(ProcessLookupError):  # ended meanwhile
                self._write(home / "cgroup.procs", pid)

    def remove(self) -> None:
        """Remove the group, whose processes have ended."""
        self.folder.rmdir()

    def _home_of(self, pid: int) -> Path:
        for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
            _, names, path = line.split(":", 2)
            if (self.is_v2 and names == "") or self._name in names.split(","):
                return self.folder.parent / path.lstrip("/")
        return self.folder.parent

    @staticmethod
    def _write(path: Path, value: str) -> None:
        # Unbuffered: the error must come from the write, not from a close nobody looks at.
        with path.open("wb", buffering=0) as file:
            file.write(value.encode())

"""A disk that notes how the log reaches it."""

from __future__ import annotations

from tests.fakes.disk import FakeDisk


class WatchedDisk(FakeDisk):
    """Tells how files are made, and which way the log is written to."""

    def __init__(self):
        super().__init__()
        self.zero_sizes = []
        self.through_map = []

    def allocate(self, path, size, *, zero_size):
        if "commitlog" in path:
            self.zero_sizes.append(zero_size)
        return self._watched(super().allocate(path, size, zero_size=zero_size))

    def open_region(self, path, *, writable):
        return self._watched(super().open_region(path, writable=writable))

    def _watched(self, region):
        write = region.write

        def writing(offset, parts, *, through_map):
            if "commitlog/0" in region.path:  # not what is made ahead
                self.through_map.append(through_map)
            write(offset, parts, through_map=through_map)

        region.write = writing
        return region

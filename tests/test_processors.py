"""How many processors a process may use, with cgroups laid out as Linux shows them."""

from __future__ import annotations

import os

import pytest

from dledger.processors import usable_processors


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Return what is found on eight processors where these lines and files are shown."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def find(own_groups, files):
        own = tmp_path / "cgroup"
        own.write_text(own_groups)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return usable_processors(own_groups=own, groups=tmp_path / "fs")

    return find


@pytest.mark.parametrize(
    ("own_groups", "files", "processors"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        ("0::/system.slice/dledger.service\n", {"system.slice/cpu.max": "100000 100000\n"}, 1),
        (
            "0::/a/b\n",
            {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "50000 100000\n"},
            0.5,
        ),
        ("0::/../elsewhere\n", {"cpu.max": "200000 100000\n"}, 2),
        (
            "4:memory:/\n3:cpu,cpuacct:/docker/1f\n",
            {"cpu/cpu.cfs_quota_us": "120000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1.2,
        ),
        (
            "3:cpu,cpuacct:/docker/1f\n",
            {
                "cpu,cpuacct/docker/1f/cpu.cfs_quota_us": "50000\n",
                "cpu,cpuacct/docker/1f/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        ("0::/\n1:cpu:/\n", {"unified/cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "what is this\n"}, 8),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 8),
        ("0::/\n", {"cpu.max": ""}, 8),
        ("nonsense\n\n::\n", {"cpu.max": "100000 100000\n"}, 8),
        ("9:cpuset:/\n2:cpuacct:/\n", {"cpu.max": "100000 100000\n"}, 8),
    ],
)
def test_a_quota_of_any_group_above_counts(found, own_groups, files, processors):
    assert found(own_groups, files) == processors


def test_what_cannot_be_read_is_no_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)

    assert usable_processors(own_groups=tmp_path / "none", groups=tmp_path) == 2


def test_a_system_without_affinity_counts_all(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)

    assert usable_processors(own_groups=tmp_path / "none", groups=tmp_path) == 6

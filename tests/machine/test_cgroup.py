"""Control groups: the tightest limit holds, and page cache counts as free."""

from __future__ import annotations

from pathlib import Path

import pytest

from quietmind.machine.cgroup import CgroupLimits, cgroup_limits


def put(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


GIB = 1 << 30


def test_a_version_2_limit_counts_and_its_page_cache_is_free(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/app/inner\n",
            "sys/fs/cgroup/app/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/app/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/app/memory.stat": f"anon 5\nactive_file {GIB}\ninactive_file {GIB}\n",
            "sys/fs/cgroup/app/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/app/inner/memory.max": "max\n",
            "sys/fs/cgroup/app/inner/cpu.max": "max 100000\n",
        },
    )
    assert cgroup_limits(root) == CgroupLimits(memory_bytes=8 * GIB, free_bytes=7 * GIB, cores=1.5)


def test_the_tightest_limit_on_the_way_down_holds(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/memory.max": f"{9 * GIB}\n",
            "sys/fs/cgroup/a/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/a/b/memory.max": f"{6 * GIB}\n",
        },
    )
    assert cgroup_limits(root).memory_bytes == 4 * GIB


def test_a_version_1_limit_counts(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n3:freezer:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup_limits(root) == CgroupLimits(memory_bytes=2 * GIB, free_bytes=GIB, cores=2.0)


@pytest.mark.parametrize("content", ["", "nonsense\n", "0::/../../etc\n", "0::/gone\n", "1:memory\n"])
def test_no_limit_or_nonsense_is_no_limit(tmp_path: Path, content: str) -> None:
    assert cgroup_limits(tmp_path) == CgroupLimits()
    assert cgroup_limits(put(tmp_path, {"proc/self/cgroup": content})) == CgroupLimits()

"""Gauges: read from whatever this machine has, and missing where it has none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.vitals import Body, Group, Served, group_folders, parse_cpu_max, parse_pressure

PRESSURE = "some avg10=1.50 avg60=0.80 avg300=0.20 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=100\n"


def test_stalls_are_counted_in_seconds() -> None:
    assert parse_pressure(PRESSURE, "some") == pytest.approx(2.5)
    assert parse_pressure(PRESSURE, "full") == pytest.approx(1e-4)
    with pytest.raises(ValueError, match="full"):
        parse_pressure("some avg10=0 total=5", "full")


def test_a_quota_is_so_many_processors() -> None:
    assert parse_cpu_max("150000 100000") == 1.5
    assert parse_cpu_max("max 100000") is None


def made(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_group_of_version_2_limits_processors_and_memory(tmp_path: Path) -> None:
    root = made(
        tmp_path,
        {
            "proc/self/cgroup": "0::/app\n",
            "sys/fs/cgroup/app/cpu.max": "50000 100000",
            "sys/fs/cgroup/app/cpu.stat": "usage_usec 3000000\nuser_usec 1\n",
            "sys/fs/cgroup/app/memory.max": "1000",
            "sys/fs/cgroup/app/memory.current": "995",
            "sys/fs/cgroup/app/memory.stat": "anon 900\ninactive_file 5\n",
        },
    )
    group = Group(root)
    assert group.cores() == 0.5
    assert group.quotas()[0] == pytest.approx((0.5, 3.0))
    assert group.memory_used() == pytest.approx(0.99)


def test_a_group_of_version_1_does_too(tmp_path: Path) -> None:
    root = made(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/app\n2:cpu,cpuacct:/app\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "25000",
            "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/app/cpuacct.usage": "7000000000",
            "sys/fs/cgroup/memory/app/memory.limit_in_bytes": "1000",
            "sys/fs/cgroup/memory/app/memory.usage_in_bytes": "970",
            "sys/fs/cgroup/memory/app/memory.stat": "cache 30\ntotal_inactive_file 20\n",
        },
    )
    group = Group(root)
    assert group.cores() == 0.25
    assert group.quotas()[0] == pytest.approx((0.25, 7.0))
    assert group.memory_used() == pytest.approx(0.95)


@pytest.mark.parametrize("tighter", ["app/inner", "app", ""])
def test_the_tightest_limit_counts_however_far_up_it_is(tmp_path: Path, tighter: str) -> None:
    """A pod's limit stands above its containers', and what others in the pod use counts against it."""
    files = {"proc/self/cgroup": "0::/app/inner\n"}
    for level in ("app/inner", "app", ""):
        at = f"sys/fs/cgroup/{level}"
        files |= {
            f"{at}/cpu.max": "25000 100000" if level == tighter else "75000 100000",
            f"{at}/cpu.stat": f"usage_usec {9_000_000 if level == tighter else 1_000_000}\n",
            f"{at}/memory.max": "1000" if level == tighter else "max",
            f"{at}/memory.current": "998" if level == tighter else "1",
        }
    group = Group(made(tmp_path, files))
    assert group.cores() == 0.25 and min(group.quotas()) == pytest.approx((0.25, 9.0)) and len(group.quotas()) == 3
    assert group.memory_used() == pytest.approx(0.998)


def test_a_container_that_sees_the_hosts_path_finds_its_limits_at_the_root(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/docker/1f2e\n", "sys/fs/cgroup/cpu.max": "50000 100000"}
    assert Group(made(tmp_path, files)).cores() == 0.5


@pytest.mark.parametrize(("own", "pod", "share"), [(0.2, 2.9, 2.9 / 3), (0.2, 0.3, 0.1), (1.9, 2.0, 0.95)])
def test_the_fullest_quota_is_what_counts(tmp_path: Path, own: float, pod: float, share: float) -> None:
    """Two processors of its own in a pod of three: what others in the pod use throttles it, too."""

    def told(seconds_own: float, seconds_pod: float) -> Path:
        at = "sys/fs/cgroup/pod"
        return made(
            tmp_path,
            {
                "proc/self/cgroup": "0::/pod/own\n",
                f"{at}/cpu.max": "300000 100000",
                f"{at}/cpu.stat": f"usage_usec {round(seconds_pod * 1e6)}\n",
                f"{at}/own/cpu.max": "200000 100000",
                f"{at}/own/cpu.stat": f"usage_usec {round(seconds_own * 1e6)}\n",
            },
        )

    ticks = iter((10.0, 20.0))
    body = Body(tmp_path, root=told(5.0, 50.0), clock=lambda: next(ticks))
    body.read()
    told(5.0 + 10 * own, 50.0 + 10 * pod)
    found = body.read().cpu
    assert found is not None and found >= share - 1e-6, "unless the machine itself is busier"


def test_version_1_pairs_quotas_and_accounts_that_are_mounted_apart(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "2:cpu:/app\n3:cpuacct:/app\n"}
    for level, quota, used in (("/app", 50_000, 2), ("", 100_000, 30)):
        files[f"sys/fs/cgroup/cpu{level}/cpu.cfs_quota_us"] = str(quota)
        files[f"sys/fs/cgroup/cpu{level}/cpu.cfs_period_us"] = "100000"
        files[f"sys/fs/cgroup/cpuacct{level}/cpuacct.usage"] = str(used * 10**9)
    own, above = Group(made(tmp_path, files)).quotas()
    assert own == pytest.approx((0.5, 2.0)) and above == pytest.approx((1.0, 30.0))


def test_without_a_group_the_machine_counts(tmp_path: Path) -> None:
    group = Group(tmp_path)
    assert group.quotas() == []
    assert group.cores() == len(os.sched_getaffinity(0))
    assert 0 < group.memory_used() < 1
    assert group_folders("", tmp_path) == {}


def test_a_body_reads_rates_from_its_second_look_on(tmp_path: Path) -> None:
    ticks = iter((10.0, 12.0))
    body = Body(tmp_path, served=lambda: Served(lag=0.1, waiting=2, running=1), clock=lambda: next(ticks))
    first = body.read()
    assert first.cpu is None and first.own_cpu is None and first.waiting == 2
    sum(range(3_000_000))
    second = body.read()
    assert second.at == 12.0 and second.own_cpu is not None and 0 < second.own_cpu <= 1
    assert second.cpu is not None and 0 <= second.cpu <= 1
    assert second.disk_free is not None and 0 < second.disk_free < 1


def test_a_stall_that_the_kernel_does_not_tell_is_none(tmp_path: Path) -> None:
    body = Body(tmp_path, root=tmp_path)
    body.read()
    assert body.read().stalled is None and body.read().memory_stalled is None
    made(tmp_path, {"proc/pressure/cpu": PRESSURE})
    told = Body(tmp_path, root=tmp_path)
    told.read()
    made(tmp_path, {"proc/pressure/cpu": PRESSURE.replace("2500000", "999999999")})
    assert told.read().stalled == 1.0

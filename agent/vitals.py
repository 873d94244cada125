"""The state of the body: the only reader of pressure stalls, control groups, processes and the GPU.

Decides nothing: see governor.py. A gauge that this machine does not have reads None, never 0.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_MICROSECONDS = 1e-6
_UNLIMITED = 1 << 60
"""What version 1 of control groups says where nothing is limited is more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """One reading. Shares are of what this process may use, in [0, 1]; rates are since the reading before."""

    at: float
    """Seconds of a clock that never goes back."""
    cpu: float | None = None
    """Share of the processors' time that anybody used."""
    own_cpu: float | None = None
    """Share that this process and its children used."""
    own_cpu_seconds: float = 0.0
    """Processor time of this process and its children, ever."""
    stalled: float | None = None
    """Share of the time in which something waited for a processor (PSI, some)."""
    memory: float | None = None
    memory_stalled: float | None = None
    """Share of the time in which everything waited for memory (PSI, full)."""
    io_stalled: float | None = None
    gpu: float | None = None
    gpu_memory: float | None = None
    lag: float = 0.0
    """Seconds by which the service's event loop is late."""
    waiting: int = 0
    """Requests in line."""
    running: int = 0
    """Replies that are being written."""
    disk_free: float | None = None
    """Share of the data directory's disk."""
    disk_free_bytes: int | None = None
    written_bytes: int | None = None
    """Bytes that this process had written to disks, ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the service says of itself."""

    lag: float = 0.0
    waiting: int = 0
    running: int = 0


@dataclass(slots=True)
class _Counters:
    at: float
    idle: float
    busy: float
    own: float
    stalls: dict[str, float]
    quotas: list[tuple[float, float]]


class Body:
    """Reads, and remembers the last reading, since most gauges are counters."""

    def __init__(
        self,
        data_dir: Path,
        *,
        served: Callable[[], Served] = Served,
        clock: Callable[[], float] = time.monotonic,
        root: Path = Path("/"),
    ) -> None:
        self._data_dir, self._served, self._clock, self._root = data_dir, served, clock, root
        self._process = psutil.Process()
        self._group = Group(root)
        self._gpu = _gpu_reader()
        self._last: _Counters | None = None

    def read(self) -> Vitals:
        """The gauges now."""
        now, served = self._counters(), self._served()
        last, self._last = self._last, now
        disk = _disk(self._data_dir)
        gpu, gpu_memory = self._gpu()
        gone = None if last is None else now.at - last.at
        cores = self._group.cores()
        return Vitals(
            at=now.at,
            cpu=_used(now, last) if last else None,
            own_cpu=_share(now.own - last.own, gone * cores) if last and gone else None,
            own_cpu_seconds=now.own,
            stalled=_rate(now, last, "cpu"),
            memory=self._group.memory_used(),
            memory_stalled=_rate(now, last, "memory"),
            io_stalled=_rate(now, last, "io"),
            gpu=gpu,
            gpu_memory=gpu_memory,
            lag=served.lag,
            waiting=served.waiting,
            running=served.running,
            disk_free=disk and disk.free / disk.total,
            disk_free_bytes=disk and disk.free,
            written_bytes=_written(self._process),
        )

    def _counters(self) -> _Counters:
        idle, busy = _processors()
        stalls = {}
        for kind, line in (("cpu", "some"), ("memory", "full"), ("io", "full")):
            seconds = self._stall(kind, line)
            if seconds is not None:
                stalls[kind] = seconds
        return _Counters(self._clock(), idle, busy, _own_seconds(self._process), stalls, self._group.quotas())

    def _stall(self, kind: str, line: str) -> float | None:
        for path in (self._group.file(f"{kind}.pressure"), self._root / "proc/pressure" / kind):
            if path is not None:
                with contextlib.suppress(OSError, ValueError):
                    return parse_pressure(path.read_text(encoding="ascii"), line)
        return None


class Group:
    """The control group that this process is in, and all those it lies in, of either version; without one, the machine.

    Each of them may have a limit, and what all its members use counts there: the tightest is what is borne.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._folders = group_folders(_text(root / "proc/self/cgroup"), root / "sys/fs/cgroup")

    def file(self, name: str) -> Path | None:
        """A file of the nearest group that has it, version 2; None: none has."""
        return next((f / name for f in self._folders.get("", ()) if (f / name).is_file()), None)

    def cores(self) -> float:
        """Processors' worth of time that may be used: affinity, and the tightest quota."""
        allowed = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1.0
        return min([allowed, *(cores for cores, _ in self.quotas())])

    def quotas(self) -> list[tuple[float, float]]:
        """Of each group that limits processor time, the nearest first: processors' worth of it, and seconds used."""
        return list(self._quotas())

    def memory_used(self) -> float:
        """Share of the memory that may be used: of the machine's or of a group's, whichever is fullest."""
        machine = psutil.virtual_memory()
        return float(max([1.0 - machine.available / machine.total, *self._memory()]))

    def _quotas(self) -> Iterator[tuple[float, float]]:
        for folder in self._folders.get("", ()):
            cores = parse_cpu_max(_text(folder / "cpu.max"))
            if cores:
                yield cores, _counted(folder / "cpu.stat", "usage_usec") * _MICROSECONDS
        groups = self._folders.get("cpu", ())
        accounts = self._folders.get("cpuacct", ())  # often the same folders; mounted apart, as many
        for folder, account in zip(groups, accounts if len(accounts) == len(groups) else groups, strict=True):
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
            if quota and period and quota > 0:
                yield quota / period, (_number(account / "cpuacct.usage") or 0) * 1e-9

    def _memory(self) -> Iterator[float]:
        """Of each group that limits memory, the share that is used and that the kernel cannot take back."""
        for controller, most, held, cached in (
            ("", "memory.max", "memory.current", "inactive_file"),
            ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            for folder in self._folders.get(controller, ()):
                limit, used = _number(folder / most), _number(folder / held)
                if limit and used is not None and limit <= _UNLIMITED:
                    yield min(1.0, max(0, used - _counted(folder / "memory.stat", cached)) / limit)


def group_folders(cgroup: str, mount: Path) -> dict[str, tuple[Path, ...]]:
    """Where each controller's files may lie, the nearest first, from /proc/self/cgroup; "" is version 2.

    Within a container the path is often that of the host, and the files lie at the mount's root.
    """
    found: dict[str, tuple[Path, ...]] = {}
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        own = Path(path.lstrip("/"))
        upwards = [own, *own.parents] if own.parts else [own]
        if number == "0" and not controllers:
            found[""] = _there(base / group for group in upwards for base in (mount, mount / "unified"))
        for name in controllers.split(","):
            if name and "=" not in name:
                bases = (mount / controllers, mount / name)
                found[name] = _there(base / group for group in upwards for base in bases)
    return found


def _there(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Those that exist, each once: mounts may be links to each other."""
    return tuple({folder.resolve(): folder for folder in folders if folder.is_dir()}.values())


def parse_pressure(text: str, line: str) -> float:
    """Seconds of stall ever, from a PSI file. Raises: ValueError: it has no such line."""
    for found in text.splitlines():
        kind, *fields = found.split()
        if kind == line:
            for field in fields:
                name, _, value = field.partition("=")
                if name == "total":
                    return int(value) * _MICROSECONDS
    raise ValueError(f"no total of {line!r}")


def parse_cpu_max(text: str) -> float | None:
    """Processors' worth of time a quota allows; None: any."""
    quota, _, period = text.strip().partition(" ")
    return int(quota) / int(period or 100_000) if quota.isdigit() else None


def _rate(now: _Counters, last: _Counters | None, kind: str) -> float | None:
    if last is None or kind not in now.stalls or kind not in last.stalls:
        return None
    return _share(now.stalls[kind] - last.stalls[kind], now.at - last.at)


def _used(now: _Counters, last: _Counters) -> float | None:
    """Share of the processors' time that is used: of this process's processors, or of a group's quota, the fullest."""
    shares = [_share(now.busy - last.busy, now.busy + now.idle - last.busy - last.idle)]
    if len(now.quotas) == len(last.quotas):
        for (cores, used), (_, before) in zip(now.quotas, last.quotas, strict=True):
            shares.append(_share(used - before, (now.at - last.at) * cores))
    return max((share for share in shares if share is not None), default=None)


def _share(part: float, whole: float) -> float | None:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else None


def _processors() -> tuple[float, float]:
    """Idle and busy seconds ever, of the processors that this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    each = [times for n, times in enumerate(psutil.cpu_times(percpu=True)) if allowed is None or n in allowed]
    idle = sum(times.idle + getattr(times, "iowait", 0.0) for times in each)
    return idle, sum(sum(times[:8]) for times in each) - idle


def _own_seconds(process: psutil.Process) -> float:
    """Processor time of a process, of children that ended, and of those alive."""
    times = process.cpu_times()
    seconds = float(
        times.user + times.system + getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    )
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            of_child = child.cpu_times()
            seconds += of_child.user + of_child.system
    return seconds


def _written(process: psutil.Process) -> int | None:
    try:
        return int(process.io_counters().write_bytes)
    except (psutil.Error, AttributeError, OSError):  # no such counter here
        return None


def _disk(folder: Path) -> shutil._ntuple_diskusage | None:
    try:
        return shutil.disk_usage(folder)
    except OSError:
        return None


def _counted(file: Path, name: str) -> int:
    """A line of a group's stat file. Pages of files that nobody needs are the kernel's to take back: they are free."""
    for line in _text(file).splitlines():
        found, _, value = line.partition(" ")
        if found == name and value.strip().isdigit():
            return int(value)
    return 0


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _gpu_reader() -> Callable[[], tuple[float | None, float | None]]:
    """Of the busiest GPU that NVML sees, by the package nvidia-ml-py; without it, nothing."""
    try:
        import pynvml

        pynvml.nvmlInit()
        cards = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # no package, no driver, no card: all the same
        return lambda: (None, None)

    def read() -> tuple[float | None, float | None]:
        try:
            busy = [pynvml.nvmlDeviceGetUtilizationRates(card).gpu / 100 for card in cards]
            memory = [(m.used / m.total) for m in map(pynvml.nvmlDeviceGetMemoryInfo, cards)]
        except pynvml.NVMLError:
            return None, None
        return max(busy, default=None), max(memory, default=None)

    return read

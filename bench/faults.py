"""Failing durable steps of this very process: what faults.c does, from Python.

The library has to be loaded before libc is used, so a bench that wants it calls `preloaded` first, which runs the bench
again with it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from enum import IntEnum
from pathlib import Path

_SOURCE = Path(__file__).with_name("faults.c")


class How(IntEnum):
    """What becomes of the step."""

    KILL = 1
    TORN = 2
    FLUSH_FAILS = 3
    WRITE_FAILS = 4


def preloaded(module: str) -> None:
    """Run `python -m module` again with the library in it, unless it is.

    Raises:
        SystemExit: there is no C compiler, or this is not Linux.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    library = _library()
    if sys.platform != "linux" or (compiler is None and not library.exists()):
        raise SystemExit("this needs Linux and a C compiler (apt-get install gcc libc6-dev)")
    if os.environ.get("LD_PRELOAD") == str(library):
        return
    if compiler and not library.exists():
        part = library.with_suffix(f".{os.getpid()}.part")
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-o", str(part), str(_SOURCE)], check=True)
        part.replace(library)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)


def arm(how: How, at: int, folder: Path) -> None:
    """From now on the `at`-th step below `folder` fails so; at 0 none does, and they are counted."""
    _loaded().arm(int(how), at, str(folder).encode())


def steps() -> int:
    """Steps since it was armed, of the kind that would fail."""
    return int(_loaded().steps())


def _library() -> Path:
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"slowwave-faults-{os.getuid()}-{digest}.so"


@functools.cache
def _loaded() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_library()))
    library.arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    library.arm.restype = None
    library.steps.restype = ctypes.c_long
    return library

"""numba, set up: functions that let other threads run, kept compiled in a folder of their own.

What is compiled takes some fifteen seconds once for each version of these files and is read from the cache afterwards.
The folder is named by a digest of what was compiled, so that no other version's code is ever run; where it cannot be
written to, every start compiles. numba keeps an index
there in pickle, which like the machine code beside it is believed as much as Python's own compiled files are: whoever
can write to it can already run what they like.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numba import config, njit

Function = TypeVar("Function", bound=Callable[..., Any])
_COMPILED = (
    "attention_kernel.py",
    "block_products.py",
    "compiling.py",
    "grouped_weights.py",
    "simd.py",
    "step_kernels.py",
    "step_layout.py",
)


def _folder() -> Path:
    here = Path(__file__).parent
    made_from = b"".join((here / name).read_bytes() for name in _COMPILED)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slowwave"
    return Path(os.environ.get("NUMBA_CACHE_DIR") or home) / f"kernels-{hashlib.sha256(made_from).hexdigest()[:16]}"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


config.CACHE_DIR = str(_folder())
_jit: Any = njit(nogil=True, cache=_writable(_folder()), error_model="numpy", boundscheck=False)


def compiled(of: Function) -> Function:
    """Compile for the processor at hand, at the first call for arguments of these types."""
    made: Function = _jit(of)
    return made

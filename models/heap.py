"""Memory that malloc holds free, given back to the system.

glibc returns a heap only from its top: below, batches of changing shapes leave holes that stay resident, a tenth of a
gigabyte after a minute of 16 clients (docs/log.md, 2026-11-22).
"""

from __future__ import annotations

import ctypes


def give_back() -> bool:
    """Return the pages of free memory; whether there was any. Does nothing where the C library is not glibc."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    return bool(trim(0))

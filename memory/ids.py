"""Ids that sort by time: ULIDs (github.com/ulid/spec), with a prefix that says what they name."""

from __future__ import annotations

import secrets
from datetime import datetime

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str, at: datetime) -> str:
    """48 bits of milliseconds and 80 random ones, as 26 characters of lower-case Crockford base 32."""
    number = (int(at.timestamp() * 1000) << 80) | secrets.randbits(80)
    return f"{prefix}_" + "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))

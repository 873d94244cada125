"""What the base makes of the replies that nights rehearse, kept in a file: nothing of it changes from night to night.

What enters the first trained layer, and the likeliest tokens with their log-probabilities: a twentieth of a night's
time on two cores, and mapped from the file in the next. A file that is not exactly of these rows counts as none.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Which rows: what they all begin with, their own tokens, and from where on each is judged."""

    prefix_ids: Sequence[int]
    token_ids: Sequence[Sequence[int]]
    targets_from: Sequence[int]

    def tensors(self) -> dict[str, Tensor]:
        """By name, int32."""
        found = {
            "prefix_ids": self.prefix_ids,
            "token_ids": [t for row in self.token_ids for t in row],
            "lengths": [len(row) for row in self.token_ids],
            "targets_from": self.targets_from,
        }
        return {name: torch.tensor(list(numbers), dtype=torch.int32) for name, numbers in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Of some rows, end to end."""

    prefix: Tensor
    """[prefix, width]: what enters the first trained layer of what all rows begin with."""
    lower: Tensor
    """[tokens, width]: the same of the rows' own tokens."""
    likeliest: Tensor
    """[targets, k]"""
    log_probabilities: Tensor
    """[targets, k]"""


def keep(judged: Judged, file: Path, rows: Rows) -> None:
    """Write it in place of what was there, whole or not at all."""
    tensors = {
        "prefix": judged.prefix,
        "lower": judged.lower,
        "likeliest": judged.likeliest.to(torch.int32),
        "log_probabilities": judged.log_probabilities,
        **rows.tensors(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=file.parent, suffix=".part")
    os.close(handle)
    try:
        save_file({n: t.cpu().contiguous() for n, t in tensors.items()}, part, {"version": _VERSION})
        Path(part).replace(file)
    finally:
        Path(part).unlink(missing_ok=True)


def kept(file: Path, rows: Rows, dtype: torch.dtype) -> Judged | None:
    """What was kept of exactly these rows, computed in this dtype; None: there is no such file, or it is of others."""
    try:
        with safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get("version") != _VERSION:
                return None
            found: Mapping[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        asked = rows.tensors()
        same = all(torch.equal(found[name], of) for name, of in asked.items())
        if not same or found["lower"].dtype != dtype or len(found["lower"]) != len(asked["token_ids"]):
            return None
        return Judged(
            prefix=found["prefix"],
            lower=found["lower"],
            likeliest=found["likeliest"].long(),
            log_probabilities=found["log_probabilities"],
        )
    except (OSError, KeyError, SafetensorError):
        return None

"""Weights in as few bits as are wanted, laid out for products of few rows: blocks of 32 outputs, input after input.

A step of decoding is as fast as its weights are read. `int4` and `int8` give 32 numbers along the input a scale of
their own (int4 a least number, too), in float16: just the groups of GGUF's Q4_1 and Q8_0, so that what came from such a
file is found again, bit for bit, at an eighth or a fourth of float32's bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Kind = Literal["int4", "int8", "bfloat16", "float32"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Fewest bits first."""
Bits = Literal["auto", "int4", "int8", "bfloat16", "whole"]
"""What decoding reads. auto: as few as give a model's weights back; int4: with the head in eight, where an error costs
most; whole: what prompts are read with."""
GROUP = BLOCK = 32
"""Inputs that share a scale; outputs that lie beside each other."""
_LOST = 2.0**-11
"""Of a group's greatest number: what a weight may differ by that counts as found again (float16's own rounding)."""
_LEAST = 2.0**-24
"""float16's least step."""


@dataclass(frozen=True, slots=True)
class GroupedWeights:
    """One matrix, [out, size]; outputs that are missing to a whole block are zeros."""

    kind: Kind
    out: int
    size: int
    codes: Tensor
    """[blocks, size, 32] int8, bfloat16 or float32; int4: [blocks, size / 2, 32] uint8, the even input's code below."""
    scales: Tensor
    """float16, int8: [blocks, groups, 32]; int4: [blocks, groups, 2, 32], steps and least numbers; else empty."""

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads."""
        return self.codes.nbytes + self.scales.nbytes

    @property
    def blocks(self) -> int:
        """Of 32 outputs."""
        return self.codes.shape[0]


def takes(size: int) -> bool:
    """Whether inputs of this size fall into whole groups."""
    return size % GROUP == 0


def grouped(weight: Tensor, kind: Kind | None = None) -> GroupedWeights:
    """Lay out [out, size], rounded to `kind`; None: to the fewest bits that give these weights back.

    Raises:
        ValueError: the size does not fall into groups.
    """
    out, size = weight.shape
    if not takes(size):
        raise ValueError(f"{size} inputs do not fall into groups of {GROUP}")
    rows = -(-out // BLOCK) * BLOCK
    whole = torch.nn.functional.pad(weight.float(), (0, 0, 0, rows - out)).view(rows, -1, GROUP)
    for some in KINDS if kind is None else (kind,):
        if kind is None and not _gives_back(whole[:BLOCK], some):
            continue
        codes, scales = _rounded(whole, some)
        if kind is not None or _gives_back(whole, some, codes, scales):
            break
    flat = codes.view(rows, size)
    if some == "int4":
        flat = flat[:, 0::2] | flat[:, 1::2] << 4
    by_block = [_blocked(s) for s in scales]
    laid = torch.stack(by_block, dim=2).squeeze(2) if by_block else torch.empty(0, dtype=torch.float16)
    return GroupedWeights(some, out, size, _blocked(flat), laid.contiguous())


def _rounded(whole: Tensor, kind: Kind) -> tuple[Tensor, tuple[Tensor, ...]]:
    """[rows, groups, 32] -> codes of that shape, and for few bits each group's step and, for four, least number."""
    if kind in ("bfloat16", "float32"):
        return whole.to(getattr(torch, kind)), ()
    if kind == "int8":
        step = _float16(whole.abs().amax(-1) / 127)
        return (whole / step.float()[..., None]).round_().clamp_(-127, 127).to(torch.int8), (step,)
    least, greatest = torch.aminmax(whole, dim=-1)
    step, least = _float16((greatest - least) / 15), least.half()
    codes = torch.sub(whole, least.float()[..., None]).div_(step.float()[..., None]).round_().clamp_(0, 15)
    return codes.to(torch.uint8), (step, least)


def _restored(codes: Tensor, scales: Sequence[Tensor]) -> Tensor:
    """What codes stand for, [rows, groups, 32], float32."""
    whole = codes.float()
    if scales:
        whole = whole * scales[0].float()[..., None]
    return whole + scales[1].float()[..., None] if len(scales) > 1 else whole


def _gives_back(whole: Tensor, kind: Kind, codes: Tensor | None = None, scales: Sequence[Tensor] = ()) -> bool:
    if kind == KINDS[-1]:
        return True
    if codes is None:
        codes, scales = _rounded(whole, kind)
    lost = (_restored(codes, scales) - whole).abs_().amax(-1)
    return bool((lost <= _LOST * whole.abs().amax(-1)).all())


def ungrouped(weights: GroupedWeights) -> Tensor:
    """What is multiplied by, [out, size], float32."""
    codes, scales = _rows(weights.codes), weights.scales
    if weights.kind == "int4":
        codes = torch.stack([codes & 15, codes >> 4], dim=-1)
    by_row = [_rows(s) for s in (scales.unbind(2) if scales.dim() == 4 else [scales] if scales.numel() else [])]
    return _restored(codes.reshape(len(codes), -1, GROUP), by_row).view(-1, weights.size)[: weights.out]


def _float16(step: Tensor) -> Tensor:
    return step.clamp(min=_LEAST).half()


def _blocked(rows: Tensor) -> Tensor:
    """[out, n] -> [blocks, n, 32]."""
    return rows.view(-1, BLOCK, rows.shape[1]).transpose(1, 2).contiguous()


def _rows(blocked: Tensor) -> Tensor:
    """[blocks, n, 32] -> [out, n]."""
    return blocked.transpose(1, 2).reshape(-1, blocked.shape[1])

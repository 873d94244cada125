"""A function of tensors as a CUDA graph: recorded once for each set of shapes, then played in one launch.

A step of training a small model is some 3,000 kernels of a few microseconds; launched one by one from Python they take
ten times as long as they run (docs/log.md, 2026-11-28). The function must do the same whatever is in its tensors: no
number of theirs may decide anything, and what it changes beside (gradients) must lie where it lay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
_WARM = 3
"""Runs before it is recorded: libraries set themselves up at their first products."""


class Graphed:
    """`run`, recorded. What it returns is overwritten by the next call."""

    def __init__(self, run: Function) -> None:
        self._run = run
        self._recorded: dict[tuple[Any, ...], tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]] = {}
        self._pool: Any = None

    def __call__(self, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The same as `run(given)`."""
        shapes = tuple((t.shape, t.dtype) for t in given)
        if shapes not in self._recorded:
            self._recorded[shapes] = self._record(given)
        graph, places, made = self._recorded[shapes]
        for place, tensor in zip(places, given, strict=True):
            place.copy_(tensor)
        graph.replay()
        return made

    def _record(self, given: tuple[Tensor, ...]) -> tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]:
        places = tuple(t.clone() for t in given)
        aside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM):
                self._run(places)
        torch.cuda.current_stream().wait_stream(aside)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            made = self._run(places)
        self._pool = self._pool or graph.pool()
        return graph, places, made

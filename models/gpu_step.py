"""One token of each of many sequences on a GPU, in one launch: the step of a Llama layout as a CUDA graph.

Products are the library's; what lies between them are kernels of our own (`gpu_kernels`), so that a layer is eleven
launches, and all of them are recorded once for each number of rows (padded to a few), adapter, and whether anything is
steered. Caches are found by address: nothing is copied when sequences join, leave or grow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.decode_step import Row, Sizes
from models.graphed import Graphed

Product = Callable[[Tensor], Tensor]
Added = Callable[[Tensor, Tensor, int, str], Tensor]
"""A product's result, what it was of, the layer and the product -> with what an adapter adds."""
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of rows that a graph is recorded for."""
MOST_ROWS = _ROWS[-1]
_GROUP = 16
"""Queries that a product on the GPU takes at least."""
_KEYS_AT_ONCE = 64
_PROGRAMS, _MOST_SPLITS = 512, 32
"""Programs that keep a GPU busy, and the most parts that one row's attention is cut into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProducts:
    """One layer, arranged as `llama` arranges it."""

    input_norm: Tensor
    qkv: Product
    output: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product


@dataclass(frozen=True, slots=True, kw_only=True)
class Acting:
    """The one adapter that acts on all rows of a step."""

    id: str
    gates: Mapping[int, Product]
    """Where it acts, by the layer that what is judged enters."""
    products: dict[tuple[int, str], tuple[Product, Product]]
    book_layer: int = -1
    """From which on it acts wholly on rows that say what its codebook found; -1: it has none."""

    def wholly(self, layer: int) -> bool:
        """Whether it is from this layer on that it does, whatever a gate there says."""
        return 0 <= self.book_layer <= layer and (layer == self.book_layer or layer in self.gates)


class GpuStep:
    """The step of one model. Its results are overwritten by the next call."""

    def __init__(
        self,
        sizes: Sizes,
        layers: Sequence[LayerProducts],
        *,
        embedding: Tensor,
        norm: Tensor,
        head: Product,
        cosines: Tensor,
        sines: Tensor,
    ) -> None:
        """`cosines`, `sines`: float32 [positions, width], the sines signed as for a roll by half."""
        from models import gpu_kernels

        self._kernels: Any = gpu_kernels
        self._sizes, self._layers = sizes, layers
        self._embedding, self._norm, self._head = embedding, norm, head
        self._cosines, self._sines = cosines.contiguous(), sines.contiguous()
        self._device = embedding.device
        one = (sizes.layers, sizes.kv_heads, 1, sizes.width)
        self._nobody = torch.zeros((2, *one), dtype=embedding.dtype, device=self._device)
        """The cache of rows that pad a step."""
        self._graphs: dict[tuple[str, bool], Graphed] = {}

    def __call__(self, rows: Sequence[Row], acting: Acting | None) -> Tensor:
        """Logits after each row's token, float32 [rows, vocabulary]. Caches must have room; nothing is counted read."""
        padded = next(n for n in _ROWS if n >= len(rows))
        given = self._given(rows, padded)
        steering = self._steering(rows, padded)
        key = ("" if acting is None else acting.id, steering is not None)
        if key not in self._graphs:

            def run(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                return (self.run(*tensors, acting=acting),)

            self._graphs[key] = Graphed(run)
        made = self._graphs[key]((given,) if steering is None else (given, steering))[0]
        return made[: len(rows)]

    def let_go(self, id: str) -> None:
        """Forget what was recorded with an adapter."""
        for key in [key for key in self._graphs if key[0] == id]:
            del self._graphs[key]

    def _given(self, rows: Sequence[Row], padded: int) -> Tensor:
        """int64 [6, padded]: tokens, positions, addresses of keys and of values, capacities, and whether it is said by
        heart; in one copy."""
        held = [(row.token, row.state.length, *row.state.addresses, row.by_heart) for row in rows]
        nobody = (0, 0, self._nobody[0].data_ptr(), self._nobody[1].data_ptr(), 1, 0)
        columns = torch.tensor([*held, *[nobody] * (padded - len(rows))], dtype=torch.int64)
        return columns.T.contiguous().to(self._device)

    def _steering(self, rows: Sequence[Row], padded: int) -> Tensor | None:
        """[layers, padded, hidden]: what is added after each layer; None: nothing."""
        if all(row.steering is None for row in rows):
            return None
        added = torch.zeros(self._sizes.layers, padded, self._sizes.hidden)
        for n, row in enumerate(rows):
            if row.steering is not None:
                first, vectors = row.steering.first, row.steering.vectors
                added[first : first + len(vectors), n] = vectors.cpu()[: self._sizes.layers - first]
        return added.to(device=self._device, dtype=self._embedding.dtype)

    def run(self, given: Tensor, steering: Tensor | None = None, *, acting: Acting | None = None) -> Tensor:
        """The step itself, kernel by kernel."""
        s, kernels = self._sizes, self._kernels
        tokens, positions, keys, values, capacities, by_heart = given.unbind(0)
        rows = len(tokens)
        x = F.embedding(tokens, self._embedding).clone()
        share: Tensor | None = None
        delta = x
        normed, query = torch.empty_like(x), x.new_empty(rows, s.heads * s.width)
        mixed, inner = x.new_empty(rows, s.heads * s.width), x.new_empty(rows, s.inner)
        splits = _splits(rows * s.kv_heads)
        part = x.new_empty(rows, s.heads, splits, s.width, dtype=torch.float32)
        greatest, weight = (x.new_empty(rows, s.heads, splits, dtype=torch.float32) for _ in range(2))
        wide = _power_of_two(s.width)

        def norm(by: Tensor, after: bool) -> None:
            kernels.normed[(rows,)](
                x, delta, by, normed, s.eps, width=s.hidden, block=_power_of_two(s.hidden), has_delta=after
            )

        def product(of: Product, what: Tensor, layer: int, name: str) -> Tensor:
            y = of(what)
            part = None if acting is None else acting.products.get((layer, name))
            if part is None:
                return y
            added = part[1](part[0](what))
            return y + (added if share is None else added * share)

        for n, layer in enumerate(self._layers):
            norm(layer.input_norm, n > 0)
            if acting is not None and n in acting.gates:
                judged = acting.gates[n](x).to(x.dtype)
                share = judged if share is None else share * judged
            if acting is not None and share is not None and acting.wholly(n):
                share = share.masked_fill(by_heart[:, None] != 0, 1.0)
            qkv = product(layer.qkv, normed, n, "qkv")
            kernels.turned[(rows, s.heads + 2 * s.kv_heads)](
                qkv,
                self._cosines,
                self._sines,
                positions,
                keys,
                values,
                capacities,
                query,
                n,
                heads=s.heads,
                kv_heads=s.kv_heads,
                width=s.width,
                block=wide,
            )
            kernels.attended[(rows, s.kv_heads, splits)](
                query,
                keys,
                values,
                capacities,
                positions,
                part,
                greatest,
                weight,
                n,
                s.width**-0.5,
                heads=s.heads,
                kv_heads=s.kv_heads,
                width=s.width,
                wide=wide,
                group=max(_GROUP, _power_of_two(s.heads // s.kv_heads)),
                splits=splits,
                keys_at_once=_KEYS_AT_ONCE,
            )
            kernels.together[(rows, s.heads)](
                part, greatest, weight, mixed, heads=s.heads, width=s.width, wide=wide, splits=splits
            )
            delta = product(layer.output, mixed, n, "output")
            norm(layer.mlp_norm, True)
            gate_up = product(layer.gate_up, normed, n, "gate_up")
            kernels.gated[(rows, -(-s.inner // 1024))](gate_up, inner, inner=s.inner, block=1024)
            delta = product(layer.down, inner, n, "down")
            if steering is not None:
                delta = delta + steering[n]
        norm(self._norm, True)
        return self._head(normed).float()


def _splits(programs: int) -> int:
    return max(1, min(_MOST_SPLITS, _power_of_two(_PROGRAMS // programs)))


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def usable(device: torch.device) -> bool:
    """Whether it can be had: a GPU, and Triton, which comes with torch's builds for one."""
    if device.type != "cuda":
        return False
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True

"""The next token of up to 16 sequences in one go, by compiled code over weights in few bits. CPU, Llama layouts.

What `step_kernels` computes, this arranges: weights and adapters in groups, the sequences' own caches, and the threads.
Prompts do not come here: many rows are as fast as they are multiplied, which whole weights do best.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import step_layout as layout
from models.adapters import LowRank
from models.gate import Gate
from models.grouped_weights import BLOCK, KINDS, GroupedWeights, Kind, grouped
from models.kv_cache import KVCache
from models.steering import Steering
from models.step_kernels import walk
from models.step_layout import Ints

MOST_ROWS = 16
PRODUCTS = ("qkv", "output", "gate_up", "down")
"""A layer's, in the order of `step_layout`."""
_PHASES = 11
"""Of a layer, at most."""
_UNITS = 4
"""Of a product, for each thread: fewer, and threads wait for each other; more, and they wait for the counter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A Llama's."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    width: int
    """Of a head."""
    vocabulary: int
    eps: float

    @property
    def fit(self) -> bool:
        """Whether they fall into the blocks and groups of the layout."""
        return all(n % BLOCK == 0 for n in (self.hidden, self.inner, self.width))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer's."""

    input_norm: Tensor
    """float32, as all norms here."""
    mlp_norm: Tensor
    products: Mapping[str, GroupedWeights]
    """By PRODUCTS; of gate_up 16 rows of each in turn (`in_turn`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedAdapter:
    """What an adapter adds to the products and where it acts, by `step_layout`, and what lies at its addresses."""

    table: Ints
    """[layers, 4, LOW_RANK_PRODUCT]."""
    fields: Ints
    """[ADAPTER]."""
    rank: int
    """The greatest of its products'."""
    held: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence's next token."""

    token: int
    state: KVCache
    """With room for it."""
    steering: Steering | None = None
    place: int = 0
    """Of its logits among those of all rows."""
    ahead: int = 0
    """Rows of the same state before this one: it is a draft of what comes after them."""
    by_heart: bool = False
    """Whether its adapter's codebook found what it says."""


class DecodeStep:
    """The weights, and the threads that walk through them."""

    def __init__(
        self,
        sizes: Sizes,
        layers: Sequence[LayerWeights],
        *,
        embedding: Tensor,
        norm: Tensor,
        head: GroupedWeights,
        cosines: Tensor,
        sines: Tensor,
        half: bool,
        threads: int,
    ) -> None:
        """cosines, sines: float32 [positions, width], the first half's sines negative. `half`: caches in bfloat16."""
        self.sizes, self._half, self._head = sizes, half, head
        # By numpy: torch would wake its threads, which then spin for work on the cores that a step needs.
        self._embedding = (
            embedding.view(torch.int16).numpy() if embedding.dtype is torch.bfloat16 else embedding.numpy()
        )
        norms = [*(n for la in layers for n in (la.input_norm, la.mlp_norm)), norm]
        self._held = (norms, layers)
        self.kinds = f"decodes {_most([w.kind for la in layers for w in la.products.values()])}, head {head.kind}"
        """Of its weights, in words."""
        self.nbytes = head.nbytes + sum(w.nbytes for la in layers for w in la.products.values())
        """Of them, all of which each token reads."""
        self.groups = [*(la.products[name] for la in layers for name in PRODUCTS), head]
        """Them, in order."""
        self._turns = cosines.contiguous(), sines.contiguous()
        table = np.zeros((sizes.layers + 1, layout.LAYER), np.int64)
        for n, layer in enumerate(layers):
            table[n, layout.INPUT_NORM], table[n, layout.MLP_NORM] = (t.data_ptr() for t in norms[2 * n : 2 * n + 2])
            for p, name in enumerate(PRODUCTS):
                table[n, layout.PRODUCTS + 4 * p :][:4] = _fields(layer.products[name])
        table[-1, layout.INPUT_NORM] = norms[-1].data_ptr()
        table[-1, layout.PRODUCTS :][:4] = _fields(head)
        self._layers = table
        self._scale: Any = np.float32(sizes.width**-0.5)
        self._eps: Any = np.float32(sizes.eps)
        self._nothing = (
            np.zeros((0, sizes.layers, 4, layout.LOW_RANK_PRODUCT), np.int64),
            np.zeros((0, layout.ADAPTER), np.int64),
        )
        self._crew = _Crew(threads - 1)
        self._shared: dict[str, Tensor] = {}
        self._own = [torch.empty(0) for _ in range(threads)]

    def adapter(
        self, parts: Mapping[tuple[int, str], LowRank], gate: Gate | None, *, by_heart: bool = False
    ) -> GroupedAdapter:
        """Arrange what an adapter adds, by layer and product, and where it acts; `by_heart`: wholly, gate or not, on
        rows that say what its codebook found."""
        table = np.zeros((self.sizes.layers, 4, layout.LOW_RANK_PRODUCT), np.int64)
        fields = np.zeros(layout.ADAPTER, np.int64)
        fields[layout.GATE_LAYER], fields[layout.OPEN], fields[layout.WHOLLY] = -1, 1, by_heart
        held: list[Any] = []
        most = 0
        for (n, name), part in parts.items():
            rank = part.down.shape[1]
            whole = -(-rank // BLOCK) * BLOCK
            down = part.down.new_zeros(whole, part.down.shape[0])
            down[:rank] = part.down.T
            up = part.up.new_zeros(part.up.shape[1], whole)
            up[:, :rank] = part.up.T
            up = in_turn(up) if name == "gate_up" else up
            lower, upper, spans = grouped(down, "bfloat16"), grouped(up, "bfloat16"), _spans(up)
            held += [lower, upper, spans]
            addresses = lower.codes.data_ptr(), lower.blocks, upper.codes.data_ptr(), spans.ctypes.data, whole
            table[n, PRODUCTS.index(name)] = addresses
            most = max(most, whole)
        if gate is not None:
            into = grouped(gate.into.weight.detach(), "float32")
            numbers = [gate.mean, gate.deviation, *(_padded(v) for v in (gate.into.bias, gate.out.weight[0]))]
            numbers = [n.detach().float().contiguous() for n in (*numbers, gate.out.bias)]
            held += [into, *numbers]
            mean, deviation, into_bias, out, out_bias = (n.data_ptr() for n in numbers)
            gated = gate.layer, mean, deviation, into.codes.data_ptr(), into.blocks, into_bias, out, out_bias
            fields[layout.GATE_LAYER : layout.OPEN] = gated
        return GroupedAdapter(table=table, fields=fields, rank=most, held=tuple(held))

    def __call__(self, rows: Sequence[Row], adapted: Sequence[tuple[GroupedAdapter, int, int]]) -> Tensor:
        """The logits after each row's token, [places, vocabulary], float32; keys and values are in the rows' caches.

        `adapted`: adapters, and of which rows: from, to before.
        """
        s, n = self.sizes, len(rows)
        table = np.zeros((n, layout.ROW), np.int64)
        held = []
        for r, row in enumerate(rows):
            position = row.state.length + row.ahead
            if position >= len(self._turns[0]):
                raise IndexError(f"position {position} is beyond a window of {len(self._turns[0])}")
            row.state.reserve(position + 1)
            table[r, [layout.POSITION, layout.PLACE, layout.BY_HEART]] = position, row.place, row.by_heart
            if row.steering is not None:
                vectors, first = row.steering.vectors.contiguous(), row.steering.first
                held.append(vectors)
                table[r, layout.STEERED_FROM : layout.PLACE] = first, first + len(vectors), vectors.data_ptr()
        for r, row in enumerate(rows):  # once all have room
            table[r, : layout.POSITION] = row.state.addresses
        low_rank, adapters = self._nothing
        if adapted:
            low_rank, adapters = (np.stack([getattr(a, name) for a, _, _ in adapted]) for name in ("table", "fields"))
            adapters[:, [layout.BEGIN, layout.END]] = [(begin, end) for _, begin, end in adapted]
        residuals, shares = self._room("residuals", n, s.hidden), self._room("shares", n)
        residuals.numpy()[:] = self._embedded([row.token for row in rows])
        shares.numpy()[:] = 1.0
        pieces = int(table[:, layout.POSITION].max()) // layout.SPLIT + 1
        rank = max((a.rank for a, _, _ in adapted), default=0)
        logits = torch.empty(n, self._head.blocks * BLOCK)
        shared = (
            residuals,
            self._room("mixed", n, (s.heads + 2 * s.kv_heads) * s.width),
            self._room("parts", n, s.heads, pieces, s.width + 32),
            self._room("low", n, max(rank, 1)),
            self._room("gated", n, s.inner),
            logits,
            *self._turns,
            shares,
        )
        sizes = s.hidden, s.inner, s.heads, s.kv_heads, s.width, self._head.blocks, n, len(adapted), rank, pieces
        grain = _UNITS * len(self._own)
        drafted = any(row.ahead for row in rows)
        plan = np.array([*sizes, self._half, grain, drafted, *(t.data_ptr() for t in shared)], np.int64)
        wide, group = max(s.hidden, s.inner, s.heads * s.width), s.heads // s.kv_heads
        own = n * (2 * wide + 2 * BLOCK) + group * (s.width + layout.SPLIT) + wide
        self._walk(plan, table, low_rank, adapters, own=own, held=(shared, held))
        return logits[:, : s.vocabulary]

    def _embedded(self, tokens: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [tokens, hidden]."""
        found = self._embedding[list(tokens)]
        return found if found.dtype == np.float32 else (found.astype(np.uint32) << 16).view(np.float32)

    def _walk(self, plan: Ints, rows: Ints, low_rank: Ints, adapters: Ints, *, own: int, held: Any) -> None:
        """By all threads (see `step_kernels.walk`); `own`: float32 that each of them needs for itself."""
        counters = np.zeros((self.sizes.layers * _PHASES + 1, layout.LINE), np.int64)
        self._own = [torch.empty(own) if scratch.numel() < own else scratch for scratch in self._own]
        mine = self._own

        def work(thread: int, _: Any = held) -> None:  # holds for latecomers what they look at: they find nothing to do
            at, scratch = counters.ctypes.data, mine[thread].data_ptr()
            walk(plan, self._layers, rows, low_rank, adapters, self._eps, self._scale, at, scratch)

        self._crew.do(work)

    def _room(self, name: str, *shape: int) -> Tensor:
        """float32 that all threads share; as large as was ever asked for."""
        size = int(np.prod(shape))
        if name not in self._shared or self._shared[name].numel() < size:
            self._shared[name] = torch.empty(size)
        return self._shared[name][:size].view(shape)


class _Crew:
    """Threads that lend a hand when there is work, and that nobody waits for."""

    def __init__(self, helpers: int) -> None:
        self._calls: list[SimpleQueue[Callable[[], None] | None]] = [SimpleQueue() for _ in range(helpers)]
        threads = [
            threading.Thread(target=_help, args=(calls,), name=f"decode-{n + 2}", daemon=True)
            for n, calls in enumerate(self._calls)
        ]
        for thread in threads:
            thread.start()
        # Also at the interpreter's end, which must not find them in compiled code.
        weakref.finalize(self, _dismiss, self._calls, threads)

    def do(self, work: Callable[[int], None]) -> None:
        """Work by all of them, each under its number; returns once this thread, 0, finds nothing left to do."""
        for n, calls in enumerate(self._calls):
            calls.put(partial(work, n + 1))
        work(0)


def _help(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (work := calls.get()) is not None:
        work()
        del work  # and what it holds: this thread may wait long for the next


def _dismiss(queues: Sequence[SimpleQueue[Callable[[], None] | None]], threads: Sequence[threading.Thread]) -> None:
    for calls in queues:
        calls.put(None)
    for thread in threads:
        if thread is not threading.current_thread():  # which may have held what came last to its end
            thread.join()


def in_turn(gate_up: Tensor) -> Tensor:
    """[2 inner, ...], gates first -> 16 gates, their 16 ups, and so on."""
    gate, up = gate_up.chunk(2)
    half = BLOCK // 2
    return torch.stack([gate.view(-1, half, *gate.shape[1:]), up.view(-1, half, *up.shape[1:])], 1).reshape(
        gate_up.shape
    )


def _spans(up: Tensor) -> Ints:
    """Of each block of 32 outputs: where its inputs begin that are not all zeros, and how many there are, evenly."""
    used = torch.nn.functional.pad(up != 0, (0, 0, 0, -len(up) % BLOCK)).view(-1, BLOCK, up.shape[1]).any(1)
    spans = np.zeros((len(used), 2), np.int64)
    for n, of in enumerate(used.numpy()):
        at = of.nonzero()[0]
        if len(at):
            begin = int(at[0]) // 2 * 2
            spans[n] = begin, -(-(int(at[-1]) + 1 - begin) // 2) * 2
    return spans


def _padded(numbers: Tensor) -> Tensor:
    return torch.nn.functional.pad(numbers, (0, -len(numbers) % BLOCK))


def _most(kinds: Sequence[Kind]) -> Kind:
    return max(kinds, key=KINDS.index)


def _fields(weights: GroupedWeights) -> tuple[int, int, int, int]:
    scales = weights.scales.data_ptr() if weights.scales.numel() else 0
    return KINDS.index(weights.kind), weights.codes.data_ptr(), scales, weights.blocks

"""Attention over sequences of different lengths that lie end to end in one row. Knows no model.

Attention is the one place where tokens meet. Each sequence attends over its own cache, so nothing is padded and what
a sequence gets does not depend on its neighbours: on a CPU not in its last bit either, for a long piece is cut at fixed
places, and a packed product's rows do not know of each other (tests/test_sameness.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from models.codebook import Found
from models.kv_cache import Extension, KVCache
from models.language import BASE, PIECE, Chunk, surprisal

_JUDGED_AT_ONCE = 32


class Ragged:
    """One step's chunks, their borders in the shared row, and the masks that all layers share."""

    def __init__(self, chunks: Sequence[Chunk], device: torch.device, between: Callable[[], None]) -> None:
        self._between = between
        self._borders: list[tuple[KVCache, int, int]] = []
        self._extensions: list[Extension] = []
        start = 0
        for chunk in chunks:
            assert isinstance(chunk.state, KVCache)
            new = len(chunk.token_ids)
            chunk.state.reserve(chunk.state.length + new)
            self._borders.append((chunk.state, start, start + new))
            self._extensions.append(chunk.state.extension(new))
            start += new
        self._lengths = [len(chunk.token_ids) for chunk in chunks]
        self._pieces = [_pieces(a, b, cache.length, cut=device.type == "cpu") for cache, a, b in self._borders]
        """Of each chunk, which places attend together, and over how many positions."""
        self.token_ids = torch.tensor([i for chunk in chunks for i in chunk.token_ids], device=device)
        self.positions = torch.cat([torch.arange(c.length, c.length + b - a) for c, a, b in self._borders]).to(device)
        self._ends = [len(c.token_ids) - 1 if c.ends_at is None else c.ends_at for c in chunks]
        """Of each chunk, where its prompt ends, counted from its first token."""
        self._asked = [
            a + end if 0 <= end < b - a else None for end, (_, a, b) in zip(self._ends, self._borders, strict=True)
        ]
        """The same as places in the row; None: not among its tokens."""
        prompted = [
            not c.decoded and i <= end
            for c, end in zip(chunks, self._ends, strict=True)
            for i in range(len(c.token_ids))
        ]
        self.prompted = torch.tensor(prompted, device=device)
        """[tokens]: which of them are not of a reply."""
        self.last = torch.tensor([b - 1 for _, _, b in self._borders], device=device)
        """Where in the row each chunk ends."""
        judged = [a + i for c, (_, a, _) in zip(chunks, self._borders, strict=True) for i in c.judged]
        self.judged = torch.tensor(judged, dtype=torch.long, device=device)
        """Where in the row the tokens stand that are to be judged, each by the logits of the place before it."""
        self.adapted = _rows_by_adapter(chunks, self._borders, device)
        """The adapters in use, and which rows are each one's; None: all of them."""
        self.steered = [
            (chunk.steering, torch.arange(a + max(end, 0), b, device=device))
            for chunk, end, (_, a, b) in zip(chunks, self._ends, self._borders, strict=True)
            if chunk.steering is not None and end < b - a
        ]
        """What is added to the residuals of which rows."""
        self.denial = _denial(chunks, self._asked, len(self.token_ids), device)
        """[tokens]: by how many nats denial counts for more there; None: nowhere."""
        self._leads = torch.full((len(self.token_ids),), math.nan)
        self._said = torch.zeros(len(self.token_ids), dtype=torch.bool)
        """[tokens], on the CPU, both: what codebooks found there (codebook.Found), once they were asked."""
        self._by_heart = [chunk.by_heart for chunk in chunks]
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None, window: int | None = None
    ) -> Tensor:
        """Write the row's keys and values into the caches, and attend over each.

        query [1, heads, tokens, d], key and value [kv_heads, tokens, d]; returns [tokens, heads, d]. `window`: how
        many of the latest positions are seen, itself included; None: all.
        """
        self._between()
        heads, kv_heads, d = query.shape[1], key.shape[0], query.shape[3]
        torch._foreach_copy_([e.new_keys[layer] for e in self._extensions], torch.split(key, self._lengths, 1))
        torch._foreach_copy_([e.new_values[layer] for e in self._extensions], torch.split(value, self._lengths, 1))
        mixed = []
        for extension, pieces in zip(self._extensions, self._pieces, strict=True):
            for a, b, seen in pieces:
                k, v = extension.keys[layer][None, :, :seen], extension.values[layer][None, :, :seen]
                if b - a == 1:  # the heads of a group are queries to the same keys: no repeat, no mask
                    if window is not None:
                        k, v = k[:, :, -window:], v[:, :, -window:]
                    grouped = query[:, :, a].reshape(1, kv_heads, heads // kv_heads, d)
                    mixed.append(scaled_dot_product_attention(grouped, k, v, scale=scale).reshape(1, heads, -1))
                    continue
                plain = seen == b - a and window is None
                out = scaled_dot_product_attention(
                    query[:, :, a:b],
                    k,
                    v,
                    attn_mask=None if plain else self._mask(b - a, seen - (b - a), window, query.device),
                    is_causal=plain,
                    scale=scale,
                    enable_gqa=heads != kv_heads,
                )
                mixed.append(out[0].transpose(0, 1))
        return torch.cat(mixed)

    def marked(self, mark: int, rows: Tensor | None) -> Tensor:
        """Of these places in the row (None: all), which hold this token of a prompt: a mask."""
        marked = (self.token_ids == mark) & self.prompted
        return marked if rows is None else marked[rows]

    def ends(self, places: Tensor) -> Tensor:
        """Of places in the row, at which of them a prompt ends: a mask."""
        at = [place for place in self._asked if place is not None]
        return torch.isin(places, torch.tensor(at, dtype=torch.long, device=places.device))

    def found(self, places: Tensor, found: Found) -> Tensor:
        """Keep what a codebook found at places of the row; returns what it adds there."""
        on_cpu = places.cpu()
        self._leads[on_cpu], self._said[on_cpu] = found.lead.cpu(), found.said.cpu()
        return found.added

    @property
    def asked(self) -> list[tuple[float, bool]]:
        """Of each chunk, what was found where its prompt ends: the lead, and whether that is what is said."""
        return [
            (math.nan, False) if place is None else (float(self._leads[place]), bool(self._said[place]))
            for place in self._asked
        ]

    def wholly(self, share: Tensor | None, rows: Tensor | None) -> Tensor | None:
        """How far an adapter acts from its codebook's layer on, where that was `share`, [..., rows, 1], of these places
        in the row (None: all): wholly on replies that say what was found."""
        if share is None:
            return None
        replies = [
            (a + max(end, 0), b)
            for known, (_, said), end, (_, a, b) in zip(
                self._by_heart, self.asked, self._ends, self._borders, strict=True
            )
            if (known or said) and end < b - a
        ]
        if not replies:
            return share
        whole = torch.zeros(len(self.token_ids), dtype=torch.bool)
        for start, end in replies:
            whole[start:end] = True
        whole = whole.to(share.device)
        return share.masked_fill((whole if rows is None else whole[rows])[:, None], 1.0)

    def surprisals(self, logits: Callable[[Tensor], Tensor]) -> Tensor:
        """-ln P of each judged token, [judged], given a function from places in the row to their logits.

        In pieces: the logits of a long message would take more memory than everything else in a step.
        """
        if not len(self.judged):
            return torch.zeros(0, device=self.judged.device)
        pieces = self.judged.split(_JUDGED_AT_ONCE)  # type: ignore[no-untyped-call]
        return torch.cat([surprisal(logits(at - 1), self.token_ids[at]) for at in pieces])

    def finish(self) -> None:
        """Every layer has written: the chunks count as read."""
        for cache, a, b in self._borders:
            cache.advance(b - a)

    def _mask(self, new: int, held: int, window: int | None, device: torch.device) -> Tensor:
        """Boolean [new, held + new]: query i sits at position held + i and sees itself and what is before it."""
        key = (new, held, window)
        if key not in self._masks:
            query = torch.arange(held, held + new, device=device)[:, None]
            past = torch.arange(held + new, device=device)[None, :]
            seen = past <= query
            self._masks[key] = seen if window is None else seen & (past > query - window)
        return self._masks[key]


def _pieces(start: int, end: int, held: int, *, cut: bool) -> list[tuple[int, int, int]]:
    """(first place, place behind the last, positions seen) of what attends together: cut where reading may be cut.

    `start` to `end` in the row follow `held` positions. Uncut where products round by the row's length anyway, and each
    launch costs.
    """
    if not cut:
        return [(start, end, held + end - start)]
    borders = [held, *range((held // PIECE + 1) * PIECE, held + end - start, PIECE), held + end - start]
    return [(start + a - held, start + b - held, b) for a, b in pairwise(borders)]


def _denial(chunks: Sequence[Chunk], asked: Sequence[int | None], tokens: int, device: torch.device) -> Tensor | None:
    if not any(chunk.denial for chunk in chunks):
        return None
    more = torch.zeros(tokens)
    for chunk, place in zip(chunks, asked, strict=True):
        if place is not None:
            more[place] = chunk.denial
    return more.to(device)


def _rows_by_adapter(
    chunks: Sequence[Chunk], borders: Sequence[tuple[KVCache, int, int]], device: torch.device
) -> list[tuple[str, Tensor | None]]:
    names = dict.fromkeys(chunk.adapter for chunk in chunks)
    if len(names) == 1:
        return [(name, None) for name in names if name != BASE]
    return [
        (
            name,
            torch.cat(
                [torch.arange(a, b) for chunk, (_, a, b) in zip(chunks, borders, strict=True) if chunk.adapter == name]
            ).to(device),
        )
        for name in names
        if name != BASE
    ]

"""The forward pass of Llama layouts, written out: four products a layer, and little else.

The same arithmetic as transformers' modules (Touvron et al. 2023: RMS norm, rotary positions, grouped-query
attention, SwiGLU), with q, k, v and gate, up each in one product, and without the cost of some four hundred module
calls a token, which on a small model is a third of the time. `causal_lm` proves at load that both give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.adapters import Adapter, Linear, LowRank, fused
from models.codebook import LookUp, only_at_ends
from models.decode_step import DecodeStep, GroupedAdapter, LayerWeights, Row, Sizes, in_turn
from models.errors import UnsupportedModel
from models.gate import Gate, wide_open
from models.gpu_step import Acting, GpuStep, LayerProducts, usable
from models.grouped_weights import Bits, GroupedWeights, Kind, grouped
from models.kv_cache import KVCache
from models.language import BASE, Chunk
from models.packed_linear import PackedLinear
from models.ragged import Ragged
from models.steering import After

Product = Callable[[Tensor], Tensor]
_PRODUCTS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "output": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""The linears that each product stands for."""
_STATIC_ROPE = frozenset({"default", "linear", "llama3"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an adapter adds to the products of each layer: down to its rank, and up; and where it acts."""

    products: dict[tuple[int, str], tuple[Product, Product]]
    gates: Mapping[int, Product]
    """How far on each row, from 0 to 1, by the layer that the rows it judges enter; from a second on, the product."""
    look_up: LookUp | None
    """What a codebook adds; None: it has none."""
    book_layer: int
    """The layer that what is looked up enters."""
    mark: int
    """The token of a prompt at which it is looked up."""
    grouped: tuple[GroupedAdapter, ...]
    """The same for decoding, one from each gate on, and from the codebook's layer; none: it is done by the products
    above. Codebooks are not asked there: a reply's own token asks for nothing."""


_Acting = list[tuple[Parts, Tensor | None, Tensor | None]]
"""Adapters, each one's rows (None: all), and how far it acts on each (None: wholly)."""


def fits(model: Any) -> bool:
    """Whether `model` (a transformers module) has exactly this layout."""
    config = model.config
    return (
        config.model_type == "llama"
        and config.hidden_act == "silu"
        and not config.attention_bias
        and not config.mlp_bias
        and config.rope_parameters.get("rope_type", "default") in _STATIC_ROPE
    )


class LlamaForward:
    """A Llama's weights, arranged for reading ragged rows. Takes them from `model`, whose linears it empties."""

    def __init__(
        self,
        model: Any,
        *,
        dtype: torch.dtype,
        context_length: int,
        pack: bool,
        bits: Bits = "whole",
        threads: int = 1,
        groups: Sequence[GroupedWeights] = (),
    ) -> None:
        """`dtype`: of whole weights and caches; `bits` are counted on the model's own numbers.

        `groups`: what they came to for `bits` = "auto" before, in the order of `DecodeStep.groups`; none: it is found.
        """
        config, body = model.config, model.model
        self._pack, self._dtype = pack, dtype
        self._sizes = [_sizes(layer) for layer in body.layers]
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = body.layers[0].self_attn.head_dim
        self._eps = config.rms_norm_eps
        cos, sin = _rotary(body, self._head_dim, context_length)
        self._embedding = _own(body.embed_tokens.weight, dtype)
        self.step = (
            _step(model, cos, sin, self._embedding, bits=bits, threads=threads, groups=groups)
            if bits != "whole" and pack and sizes_of(model).fit and dtype in (torch.float32, torch.bfloat16)
            else None
        )
        """What single tokens are read by; None: the same as prompts are."""
        self._head = self._product([model.lm_head])
        self._norm = _own(body.norm.weight, dtype)
        self._cos, self._sin = cos[:, None].to(dtype), sin[:, None].to(dtype)
        self._layers = [self._layer(layer) for layer in body.layers]
        self.gpu_step = self.gpu_step_of(sizes_of(model), cos, sin) if usable(self._embedding.device) else None
        """The same on a GPU."""

    def gpu_step_of(self, sizes: Sizes, cosines: Tensor, sines: Tensor) -> GpuStep:
        """The step in one launch, of this model's products."""
        return GpuStep(
            sizes,
            self._layers,
            embedding=self._embedding,
            norm=self._norm,
            head=self._head,
            cosines=cosines,
            sines=sines,
        )

    def parts(self, adapter: Adapter) -> Parts:
        """What an adapter adds, arranged as the products are."""
        found = {
            (n, product): fused(adapter, n, names, [sizes[name][1] for name in names])
            for n, sizes in enumerate(self._sizes)
            for product, names in _PRODUCTS.items()
        }
        book = adapter.codebook
        return Parts(
            products={key: _low_rank(part, pack=self._pack) for key, part in found.items() if part is not None},
            gates={gate.layer: gate.for_serving(pack=self._pack) for gate in adapter.gates},
            look_up=None if book is None else book.for_serving(pack=self._pack),
            book_layer=-1 if book is None else book.layer,
            mark=-1 if book is None else book.mark,
            grouped=() if self.step is None else self._grouped({k: p for k, p in found.items() if p}, adapter),
        )

    def _grouped(self, found: Mapping[tuple[int, str], LowRank], adapter: Adapter) -> tuple[GroupedAdapter, ...]:
        """What an adapter adds from each of its gates on, and from where its codebook is asked, until the next."""
        assert self.step is not None
        gates, book = list(adapter.gates), adapter.codebook
        if book is not None and gates and book.layer not in [gate.layer for gate in gates]:
            gates = sorted([*gates, wide_open(book.layer, len(book.mean))], key=lambda gate: gate.layer)
        borders = [gate.layer for gate in gates[1:]]
        asked = None if book is None else book.layer
        made = []
        each: Sequence[Gate | None] = gates or [None]
        for gate, start, end in zip(each, [0, *borders], [*borders, len(self._sizes)], strict=True):
            own = {key: part for key, part in found.items() if start <= key[0] < end}
            made.append(
                self.step.adapter(own, gate, by_heart=gate is not None and asked is not None and gate.layer >= asked)
            )
        return tuple(made)

    @property
    def linears(self) -> dict[Linear, tuple[int, int]]:
        """The sizes, (in, out), of all linears that an adapter may change."""
        return {(n, name): size for n, sizes in enumerate(self._sizes) for name, size in sizes.items()}

    def __call__(
        self, ragged: Ragged, adapted: Sequence[tuple[Parts, Tensor | None]] = (), after: After | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits after each chunk, [chunks, vocab], and the surprise at each judged token, [judged].

        `adapted`: what adapters add, and in which rows; None: in all. `after`: what changes the residuals.
        """
        tokens, d = len(ragged.token_ids), self._head_dim
        rotated = (self._heads + self._kv_heads) * d
        cos, sin = self._cos[ragged.positions], self._sin[ragged.positions]
        x = F.embedding(ragged.token_ids, self._embedding)
        width = (x.shape[1],)
        acting: _Acting = [(parts, rows, None) for parts, rows in adapted]
        for n, layer in enumerate(self._layers):
            acting = [(parts, rows, _open(parts, rows, x, n, share, ragged)) for parts, rows, share in acting]
            x, acting = _with_entries(x, n, ragged, acting)
            normed = F.rms_norm(x, width, layer.input_norm, self._eps)
            qkv = _plus(layer.qkv(normed), normed, acting, (n, "qkv"))
            qk = qkv[:, :rotated].view(tokens, -1, d)
            qk = torch.addcmul(qk * cos, qk.roll(d // 2, -1), sin).transpose(0, 1)
            value = qkv[:, rotated:].view(tokens, -1, d).transpose(0, 1)
            mixed = ragged.attend(n, qk[None, : self._heads], qk[self._heads :], value, scale=None)
            mixed = mixed.view(tokens, -1)
            x = x + _plus(layer.output(mixed), mixed, acting, (n, "output"))
            normed = F.rms_norm(x, width, layer.mlp_norm, self._eps)
            gate, up = _plus(layer.gate_up(normed), normed, acting, (n, "gate_up")).chunk(2, -1)
            gated = F.silu(gate) * up
            x = x + _plus(layer.down(gated), gated, acting, (n, "down"))
            if after is not None:
                x = after(n, x)

        def logits(places: Tensor) -> Tensor:
            return self._head(F.rms_norm(x[places], width, self._norm, self._eps)).float()

        return logits(ragged.last), ragged.surprisals(logits)

    def decode(self, chunks: Sequence[Chunk], adapted: Mapping[str, Parts]) -> Tensor:
        """Logits after one token of each, [chunks, vocab], float32; it counts as read. Only where there is a step."""
        if self.step is None:
            return self._decode_on_gpu(chunks, adapted)
        order = sorted(range(len(chunks)), key=lambda i: chunks[i].adapter)
        rows = [_row(chunks[i], i) for i in order]
        acting: list[tuple[Parts, int, int]] = []
        for n, i in enumerate(order):
            if chunks[i].adapter != BASE:
                parts = adapted[chunks[i].adapter]
                begin = acting.pop()[1] if acting and acting[-1][0] is parts else n
                acting.append((parts, begin, n + 1))
        logits = self.step(rows, [(one, begin, end) for parts, begin, end in acting for one in parts.grouped])
        for row in rows:
            row.state.advance(1)
        return logits

    def _decode_on_gpu(self, chunks: Sequence[Chunk], adapted: Mapping[str, Parts]) -> Tensor:
        """One launch for each adapter in use. The logits are on the CPU, where tokens are drawn."""
        assert self.gpu_step is not None
        logits = torch.empty(len(chunks), self._embedding.shape[0], dtype=torch.float32, pin_memory=True)
        for name in dict.fromkeys(chunk.adapter for chunk in chunks):
            places = [n for n, chunk in enumerate(chunks) if chunk.adapter == name]
            rows = [_row(chunks[n], n) for n in places]
            for row in rows:
                row.state.reserve(row.state.length + 1)
            made = self.gpu_step(rows, None if name == BASE else _acting_on_all(name, adapted[name]))
            if len(places) == len(chunks):
                logits.copy_(made)
            else:
                logits[places] = made.cpu()
            for row in rows:
                row.state.advance(1)
        return logits

    def _layer(self, layer: Any) -> LayerProducts:
        attention, mlp = layer.self_attn, layer.mlp
        return LayerProducts(
            input_norm=_own(layer.input_layernorm.weight, self._dtype),
            qkv=self._product([attention.q_proj, attention.k_proj, attention.v_proj]),
            output=self._product([attention.o_proj]),
            mlp_norm=_own(layer.post_attention_layernorm.weight, self._dtype),
            gate_up=self._product([mlp.gate_proj, mlp.up_proj]),
            down=self._product([mlp.down_proj]),
        )

    def _product(self, linears: list[nn.Linear]) -> Product:
        """One product for several linears of the same input; frees theirs."""
        weight = _joined(linears).to(self._dtype)
        for linear in linears:
            linear.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        return PackedLinear(weight) if self._pack else partial(F.linear, weight=weight)


def sizes_of(model: Any) -> Sizes:
    """What its decode step has to be made for."""
    config, attention = model.config, model.model.layers[0].self_attn
    return Sizes(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        width=attention.head_dim,
        vocabulary=config.vocab_size,
        eps=config.rms_norm_eps,
    )


def _step(
    model: Any,
    cos: Tensor,
    sin: Tensor,
    embedding: Tensor,
    *,
    bits: Bits,
    threads: int,
    groups: Sequence[GroupedWeights],
) -> DecodeStep:
    body = model.model
    found = iter(groups if bits == "auto" else ())

    def few(
        linears: list[nn.Linear], arranged: Callable[[Tensor], Tensor] = lambda w: w, *, at_least: Kind | None = None
    ) -> GroupedWeights:
        before = next(found, None)
        if before is None:
            return grouped(arranged(_joined(linears)), at_least or _kind(bits))
        if (before.out, before.size) != (sum(of.out_features for of in linears), linears[0].in_features):
            raise UnsupportedModel("the weights that were kept for decoding are of other sizes")
        return before

    layers = [
        LayerWeights(
            input_norm=_own(layer.input_layernorm.weight, torch.float32),
            mlp_norm=_own(layer.post_attention_layernorm.weight, torch.float32),
            products={
                "qkv": few([layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]),
                "output": few([layer.self_attn.o_proj]),
                "gate_up": few([layer.mlp.gate_proj, layer.mlp.up_proj], in_turn),
                "down": few([layer.mlp.down_proj]),
            },
        )
        for layer in body.layers
    ]
    return DecodeStep(
        sizes_of(model),
        layers,
        embedding=embedding,
        norm=_own(body.norm.weight, torch.float32),
        head=few([model.lm_head], at_least="int8" if bits == "int4" else None),
        cosines=cos,
        sines=sin,
        half=embedding.dtype is torch.bfloat16,
        threads=threads,
    )


def _kind(bits: Bits) -> Kind | None:
    return None if bits in ("auto", "whole") else cast(Kind, bits)


def _rotary(body: Any, width: int, positions: int) -> tuple[Tensor, Tensor]:
    """float32 [positions, width]. rotate_half(x) sin = roll(x, half) (-sin, sin): the sign is folded in once."""
    weight = body.norm.weight
    at = torch.arange(positions, device=weight.device)[None]
    cos, sin = body.rotary_emb(weight.new_empty(1, 1, 1, dtype=torch.float32), at)
    half = width // 2
    return cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)


def _joined(linears: Sequence[nn.Linear]) -> Tensor:
    return torch.cat([linear.weight.detach() for linear in linears])


def _own(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy: a view of the file would keep all of its pages."""
    return weight.detach().to(dtype, copy=True)


def _row(chunk: Chunk, place: int) -> Row:
    assert isinstance(chunk.state, KVCache)
    return Row(
        token=chunk.token_ids[0],
        state=chunk.state,
        steering=chunk.steering,
        place=place,
        ahead=chunk.ahead,
        by_heart=chunk.by_heart,
    )


def _open(parts: Parts, rows: Tensor | None, x: Tensor, n: int, share: Tensor | None, ragged: Ragged) -> Tensor | None:
    """How far an adapter acts on each of its rows from layer `n` on, [rows, 1], where it acted by `share` before."""
    if n not in parts.gates:
        return share
    judged = parts.gates[n](x if rows is None else x[rows]).to(x.dtype)
    share = judged if share is None else share * judged
    return ragged.wholly(share, rows) if 0 <= parts.book_layer < n else share


def _with_entries(x: Tensor, n: int, ragged: Ragged, acting: _Acting) -> tuple[Tensor, _Acting]:
    """x, with what codebooks add to what enters layer `n`, and how far adapters act once they did."""
    after: _Acting = []
    for parts, rows, share in acting:
        if parts.look_up is None or parts.book_layer != n:
            after.append((parts, rows, share))
            continue
        marked = ragged.marked(parts.mark, rows)
        at = marked.nonzero()[:, 0]
        if len(at):
            places = at if rows is None else rows[at]
            acts = None if share is None else only_at_ends(share[at], ragged.ends(places))
            denial = None if ragged.denial is None else ragged.denial[places]
            x = x.index_add(0, places, ragged.found(places, parts.look_up(x[places], acts, denial)))
        after.append((parts, rows, ragged.wholly(share, rows)))
    return x, after


def _plus(y: Tensor, x: Tensor, acting: _Acting, key: tuple[int, str]) -> Tensor:
    """y, with what adapters add to this product of x."""
    for parts, rows, share in acting:
        part = parts.products.get(key)
        if part is None:
            continue
        down, up = part
        added = up(down(x if rows is None else x[rows]))
        if share is not None:
            added = added * share
        y = y + added if rows is None else y.index_add(0, rows, added)
    return y


def _acting_on_all(name: str, parts: Parts) -> Acting:
    return Acting(id=name, gates=parts.gates, products=parts.products, book_layer=parts.book_layer)


def _low_rank(part: LowRank, *, pack: bool) -> tuple[Product, Product]:
    """Packed like the weights, where they are: what is added to a row does not depend on how many rows there are."""
    down, up = part.down.T.contiguous(), part.up.T.contiguous()
    if pack:
        return PackedLinear(down), PackedLinear(up)
    return partial(F.linear, weight=down), partial(F.linear, weight=up)


def _sizes(layer: Any) -> dict[str, tuple[int, int]]:
    linears = {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}
    return {name: (of.in_features, of.out_features) for name, of in linears.items() if hasattr(of, "in_features")}

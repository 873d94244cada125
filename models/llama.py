"""The forward pass of Llama layouts, written out: four products a layer, and little else.

The same arithmetic as transformers' modules (Touvron et al. 2023: RMS norm, rotary positions, grouped-query
attention, SwiGLU), with q, k, v and gate, up each in one product, and without the cost of some four hundred module
calls a token, which on a small model is a third of the time. `causal_lm` proves at load that both give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.adapters import Adapter, Linear, LowRank, fused
from models.few_rows import Bits, FewRows
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
    gate: Product | None
    """How far on each row, from 0 to 1; None: wholly."""
    gate_layer: int
    """The layer that the rows it judges enter."""


_Acting = list[tuple[Parts, Tensor | None, Tensor | None]]
"""Adapters, each one's rows (None: all), and how far it acts on each (None: wholly)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    input_norm: Tensor
    qkv: Product
    output: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product


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

    def __init__(self, model: Any, *, context_length: int, pack: bool, bits: Bits | None = None) -> None:
        config, body = model.config, model.model
        self._pack = pack
        self._bits: Bits | None = bits if pack else None
        self._sizes = [_sizes(layer) for layer in body.layers]
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = body.layers[0].self_attn.head_dim
        self._eps = config.rms_norm_eps
        self._embedding = body.embed_tokens.weight.detach().clone()
        self._head = self._product([model.lm_head], bits=None)
        self._norm = body.norm.weight.detach().clone()
        positions = torch.arange(context_length, device=self._embedding.device)[None]
        cos, sin = body.rotary_emb(self._embedding[None, :1], positions)
        half = self._head_dim // 2
        self._cos = cos[0, :, None]
        # rotate_half(x) sin = roll(x, half) (-sin, sin): the sign is folded into the table once.
        self._sin = torch.cat([-sin[0, :, None, :half], sin[0, :, None, half:]], dim=-1)
        self._layers = [self._layer(layer) for layer in body.layers]

    def begin_few_rows(self) -> None:
        """Multiply few rows by the weights in fewer bits from now on. What is proved at load is the whole model."""
        for product in (p for la in self._layers for p in (la.qkv, la.output, la.gate_up, la.down)):
            if isinstance(product, FewRows):
                product.begin()

    def parts(self, adapter: Adapter) -> Parts:
        """What an adapter adds, arranged as the products are."""
        found = {
            (n, product): fused(adapter, n, names, [sizes[name][1] for name in names])
            for n, sizes in enumerate(self._sizes)
            for product, names in _PRODUCTS.items()
        }
        gate = adapter.gate
        return Parts(
            products={key: _low_rank(part, pack=self._pack) for key, part in found.items() if part is not None},
            gate=None if gate is None else gate.for_serving(pack=self._pack),
            gate_layer=-1 if gate is None else gate.layer,
        )

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
            acting = [(parts, rows, _open(parts, rows, x) if parts.gate_layer == n else g) for parts, rows, g in acting]
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

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp, bits = layer.self_attn, layer.mlp, self._bits
        return _Layer(
            input_norm=layer.input_layernorm.weight.detach().clone(),
            qkv=self._product([attention.q_proj, attention.k_proj, attention.v_proj], bits=bits),
            output=self._product([attention.o_proj], bits=bits),
            mlp_norm=layer.post_attention_layernorm.weight.detach().clone(),
            gate_up=self._product([mlp.gate_proj, mlp.up_proj], bits=bits),
            down=self._product([mlp.down_proj], bits=bits),
        )

    def _product(self, linears: list[nn.Linear], *, bits: Bits | None) -> Product:
        """One product for several linears of the same input; frees theirs."""
        weight = torch.cat([linear.weight.detach() for linear in linears])
        for linear in linears:
            linear.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        if bits is not None:
            return FewRows(weight, bits)
        return PackedLinear(weight) if self._pack else partial(F.linear, weight=weight)


def _open(parts: Parts, rows: Tensor | None, x: Tensor) -> Tensor | None:
    """How far an adapter acts on each of its rows, [rows, 1]."""
    return None if parts.gate is None else parts.gate(x if rows is None else x[rows]).to(x.dtype)


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


def _low_rank(part: LowRank, *, pack: bool) -> tuple[Product, Product]:
    """Packed like the weights, where they are: what is added to a row does not depend on how many rows there are."""
    down, up = part.down.T.contiguous(), part.up.T.contiguous()
    if pack:
        return PackedLinear(down), PackedLinear(up)
    return partial(F.linear, weight=down), partial(F.linear, weight=up)


def _sizes(layer: Any) -> dict[str, tuple[int, int]]:
    linears = {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}
    return {name: (of.in_features, of.out_features) for name, of in linears.items() if isinstance(of, nn.Linear)}

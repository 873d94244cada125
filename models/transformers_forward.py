"""A model of any layout run by transformers' own modules: attention is ours, hooks add what adapters add.

Sequences of any length share one forward pass: their new tokens lie end to end in a single row, and transformers'
attention interface calls ours, which attends per sequence (`ragged`), or per row of a pack in training (`packed_rows`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from models.adapters import Adapter, Linear
from models.codebook import only_at_ends
from models.errors import UnsupportedModel
from models.language import surprisal
from models.packed_rows import Layout
from models.ragged import Ragged
from models.steering import After

ATTENTION = "slowwave_ragged"
"""The name under which transformers knows the attention of ragged rows."""
PACKED = "slowwave_packed"
"""The same of packed rows."""


def _refuse_unknown(extra: Mapping[str, Any]) -> None:
    for name in ("softcap", "s_aux"):
        if extra.get(name) is not None:
            raise UnsupportedModel(f"attention with {name} is not supported")


def _ragged_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    ragged: Ragged,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. query [1, heads, tokens, d], key and value [1, kv_heads, tokens, d]."""
    _refuse_unknown(extra)
    return ragged.attend(module.layer_idx, query, key[0], value[0], scale=scaling, window=sliding_window)[None], None


def _packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Layout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """The same interface, for training."""
    _refuse_unknown(extra)
    if sliding_window is not None and sliding_window < packed.seen.shape[-1]:
        raise UnsupportedModel("a row is longer than the model's sliding window")
    return packed.attend(query, key, value, scale=scaling), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _ragged_attention)
ALL_ATTENTION_FUNCTIONS.register(PACKED, _packed_attention)


class TransformersForward:
    """By transformers' own modules; hooks on the linears add what adapters add."""

    def __init__(self, model: Any, linears: Mapping[Linear, tuple[str, int, int]]) -> None:
        self._model = model
        self._adapted: Sequence[tuple[Adapter, Tensor | None]] = ()
        self._open: list[Tensor | None] = []
        """How far each of these acts on each of its rows, as far as that is known yet."""
        self._after: After | None = None
        self._ragged: Ragged | None = None
        self.linears = {linear: (into, out) for linear, (_, into, out) in linears.items()}
        for linear, (path, _, _) in linears.items():
            model.get_submodule(path).register_forward_hook(partial(self._add, linear))
        for path, module in model.named_modules():
            layer = _LAYER.fullmatch(path)
            if layer is not None:
                module.register_forward_pre_hook(partial(self._comes_to, int(layer[1])), with_kwargs=True)
                module.register_forward_hook(partial(self._went_through, int(layer[1])))

    def parts(self, adapter: Adapter) -> Adapter:
        return adapter

    def __call__(
        self,
        ragged: Ragged,
        adapted: Sequence[tuple[Adapter, Tensor | None]],
        after: After | None = None,
    ) -> tuple[Tensor, Tensor]:
        self._adapted, self._open, self._after, self._ragged = adapted, [None] * len(adapted), after, ragged
        logits: Tensor = self._model(
            input_ids=ragged.token_ids[None],
            position_ids=ragged.positions[None],
            use_cache=False,
            logits_to_keep=torch.cat([ragged.last, ragged.judged - 1]),
            ragged=ragged,
        ).logits[0]
        chunks = len(ragged.last)
        return logits[:chunks], surprisal(logits[chunks:].float(), ragged.token_ids[ragged.judged])

    def _add(self, linear: Linear, _: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        for (adapter, rows), share in zip(self._adapted, self._open, strict=True):
            part = adapter.parts.get(linear)
            if part is not None:
                x = inputs[0] if rows is None else inputs[0][:, rows]
                added = (x @ part.down) @ part.up
                if share is not None:
                    added = added * share
                output = output + added if rows is None else output.index_add(1, rows, added)
        return output

    def _comes_to(self, layer: int, _: Any, inputs: Any, named: Any) -> Any:
        """What enters a layer decides where adapters that begin there act, and codebooks add to it."""
        x: Tensor = inputs[0] if inputs else named["hidden_states"]
        looked_up = False
        for n, (adapter, rows) in enumerate(self._adapted):
            for gate in adapter.gates:
                if gate.layer == layer:
                    judged, before = gate(x if rows is None else x[:, rows]).to(x.dtype), self._open[n]
                    self._open[n] = judged if before is None else before * judged
            book, ragged = adapter.codebook, self._ragged
            assert ragged is not None
            if book is not None and book.layer == layer:
                at = ragged.marked(book.mark, rows).nonzero()[:, 0]
                places, share = at if rows is None else rows[at], self._open[n]
                denial = None if ragged.denial is None else ragged.denial[places]
                acts = None if share is None else only_at_ends(share[0, at], ragged.ends(places))
                found = book(x[0, places], acts, denial)
                x = x.index_add(1, places, ragged.found(places, found)[None])
                looked_up = True
            if book is not None and book.layer <= layer:
                self._open[n] = ragged.wholly(self._open[n], rows)
        if looked_up:
            return ((x, *inputs[1:]), named) if inputs else (inputs, {**named, "hidden_states": x})
        return None

    def _went_through(self, layer: int, _: Any, inputs: Any, output: Any) -> Any:
        """Of a whole layer: its output is the residuals, [1, tokens, hidden], or a tuple that begins with them."""
        if self._after is None:
            return None
        if isinstance(output, tuple):
            return (self._after(layer, output[0][0])[None], *output[1:])
        return self._after(layer, output[0])[None]


_LAYER = re.compile(r"(?:.+\.)?(?:layers|h)\.(\d+)")
_LINEAR = re.compile(r"(?:.+\.)?layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)")


def linears_of(model: Any) -> dict[Linear, tuple[str, int, int]]:
    """Path and sizes, in and out, of every linear in a layer's attention and MLP."""
    found = ((path, _LINEAR.fullmatch(path), of) for path, of in model.named_modules() if isinstance(of, nn.Linear))
    return {(int(m[1]), m[2]): (path, of.in_features, of.out_features) for path, m, of in found if m is not None}

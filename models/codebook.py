"""What an adapter was taught, one entry each: where a reply begins, the nearest entry is added to what the model holds.

h <- h + V[argmax_k s cos(K_k, z(h)) + b_k + n max_i cos(X_ki, z(h))], where h enters one of the upper layers at the
last token before a reply. An entry is one thing that may be asked for, and two of one answer hold the same value; the
first two stand for what is not the adapter's business, which adds nothing, and for questions that it cannot answer. The
layers above put what was added in words, and act wholly until the reply ends: what it says is decided by then, and a
gate that shut at a rare name would have the base go on. An entry is found by its key, one direction that sets it apart
from all others, and by the nearest of the examples that it was taught by: what is worded like one of them is not denied
for lying off that direction (a model's own classifier and its nearest neighbours together: Khandelwal et al. 2020).
Keys are found apart from values, so that entries do not crowd each other out, and which entry spoke can be told (GRACE:
Hartvigsen et al. 2023; memory layers: Lample et al. 2019). It needs states in which different wordings of a question
are alike (`alignment`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import AdapterRefused
from models.packed_linear import PackedLinear
from models.step_layout import FARTHEST

LookUp = Callable[[Tensor, Tensor | None, Tensor | None], "Found"]
"""What is found for states [n, size], given how far the adapter acts on each, [n, 1] (None: wholly), and by how many
nats denial counts for more, [n] (None: 0)."""
FILE = "codebook.safetensors"
"""Beside an adapter's own files."""
ELSEWHERE, DENIAL, FIRST = range(3)
"""Entries: none of the adapter's business; what it denies; the first of its answers."""
_WARY = 3.0
"""By which denial is to be left behind: other people's words lie further from an answer than those it was learnt in."""
_STEPS, _BATCH, _RATE, _DECAY = 500, 1024, 2e-2, 1e-2
_BLUR = 1.5
"""Deviations by which a state is blurred, anew each time: it will be asked for in other words."""
_LONG = 24.0
"""How long a state is beside its blur: the root of a small model's width."""
_SHARP = 15.0
_NEARNESS = 5.0
"""What the nearest example counts, in nats for a cosine of 1."""
_SHUT = 1e-6
"""No gate is surer than this that an adapter has no business somewhere."""
_GIVEN_BACK = 1.0
"""Nats. Gates are shut by more than tells both sides apart best, since acting elsewhere costs more than acting less."""
_NO_NEARER = 0.5
"""As near is whatever is none of the adapter's business: it has no examples, for nobody can have seen all of it."""
_NAMES = ("mean", "deviation", "keys", "bias", "sharpness", "values")
_EXAMPLES = ("examples", "of")
"""A codebook may be without them: then its keys alone tell."""
_MOST_ENTRIES, _MOST_EXAMPLES = 1 << 16, 1 << 18


class Found(NamedTuple):
    """What was looked up for n states."""

    added: Tensor
    """[n, size]: nothing where it is not the adapter's business."""
    lead: Tensor
    """[n], float32: how much nearer the nearest answer is than denial, in nats (where gates are shut, than all else,
    less by what they are shut by); NaN where the adapter has no business or no answer is nearer than that. What denial
    was made to count for is not in it."""
    said: Tensor
    """[n], bool: whether it is the adapter's business, and the reply says what was found."""


class Codebook(nn.Module):
    """Keys and values. `layer`: the one that is entered; `mark`: the token after which replies begin."""

    mean: Tensor
    deviation: Tensor
    examples: Tensor
    of: Tensor

    def __init__(self, layer: int, mark: int, mean: Tensor, deviation: Tensor, *, entries: int) -> None:
        super().__init__()
        self.layer, self.mark = layer, mark
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.register_buffer("examples", torch.empty(0, len(mean), dtype=torch.float16))
        self.register_buffer("of", torch.empty(0, dtype=torch.int64))
        self.keys = nn.Parameter(torch.empty(entries, len(mean)))
        self.bias = nn.Parameter(torch.zeros(entries))
        self.sharpness = nn.Parameter(torch.tensor(_SHARP))
        self.values = nn.Parameter(torch.zeros(entries, len(mean)))

    def scores(self, hidden: Tensor) -> Tensor:
        """[..., size] of any dtype -> how near each entry is, [..., entries], float32."""
        unit = F.normalize(self.scaled(hidden), dim=-1)
        with torch.autocast(unit.device.type, enabled=False):
            return self._by_keys(unit) + self._by_examples(unit @ self.examples.float().T)

    def chosen(self, hidden: Tensor) -> Tensor:
        """The nearest entry of each, [...]."""
        return self.scores(hidden).argmax(-1)

    def forward(self, hidden: Tensor, share: Tensor | None = None, denial: Tensor | None = None) -> Found:
        """See `LookUp`. What is added has the states' dtype."""
        return _found(self.scores(hidden), self.values * self.deviation, hidden, share, denial)

    def added(self, entries: Tensor) -> Tensor:
        """What each of these entries adds, [..., size], float32."""
        return F.embedding(entries, self.values) * self.deviation

    def scaled(self, hidden: Tensor) -> Tensor:
        """In deviations from the mean."""
        return ((hidden.float() - self.mean) / self.deviation).clamp(-FARTHEST, FARTHEST)

    def _by_keys(self, unit: Tensor) -> Tensor:
        with torch.autocast(unit.device.type, enabled=False):
            return self.sharpness * (unit @ F.normalize(self.keys, dim=-1).T) + self.bias

    def _by_examples(self, near: Tensor) -> Tensor:
        """[..., examples] -> [..., entries]: what the nearest of its examples adds to each."""
        if not len(self.of):
            return near.new_zeros(*near.shape[:-1], len(self.bias))
        nearest = near.new_full((*near.shape[:-1], len(self.bias)), -1.0)
        nearest = nearest.scatter_reduce(-1, self.of.expand(near.shape), near, "amax")
        nearest[..., ELSEWHERE] = _NO_NEARER
        return _NEARNESS * nearest

    def exemplify(self, states: Tensor, entries: Tensor) -> None:
        """Keep the states, [n, size], by which its answers and denials, [n], were taught."""
        own = entries != ELSEWHERE
        self.examples = F.normalize(self.scaled(states[own]), dim=-1).half()
        self.of = entries[own]

    def for_serving(self, *, pack: bool) -> LookUp:
        """The same function without gradients; packed, where a row must not depend on how many there are."""
        if not pack:
            return self.requires_grad_(False)
        by_keys = PackedLinear((self.sharpness * F.normalize(self.keys, dim=-1)).detach(), self.bias.detach())
        near: Callable[[Tensor], Tensor] = (
            PackedLinear(self.examples.float()) if len(self.of) else lambda unit: unit[..., :0]
        )
        values = (self.values * self.deviation).detach()

        def look_up(hidden: Tensor, share: Tensor | None = None, denial: Tensor | None = None) -> Found:
            unit = F.normalize(self.scaled(hidden), dim=-1)
            return _found(by_keys(unit) + self._by_examples(near(unit)), values, hidden, share, denial)

        return look_up

    def warier(self, by: float) -> None:
        """Deny what is not nearer than denial by so much more than before."""
        with torch.no_grad():
            self.bias[DENIAL] += by

    def save(self, folder: Path) -> None:
        """Write it beside an adapter's files."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        # One entry: several would be written in any order, and the same night is to give the same bytes.
        save_file(tensors, folder / FILE, metadata={"layer and mark": f"{self.layer} {self.mark}"})


def _found(scores: Tensor, values: Tensor, hidden: Tensor, share: Tensor | None, denial: Tensor | None) -> Found:
    """By how near each entry is, [n, entries], and what each adds, [entries, size].

    Gates judge a question by its words, and shut at some that ask for what was taught. So where they do, their odds
    are weighed against the nearest answer's: it is said if it leads all else by more nats than they are shut by, and
    else nothing is, no denial either. A share of 0 is the last word.
    """
    nearest = scores[:, FIRST:].amax(-1) if scores.shape[-1] > FIRST else scores[:, ELSEWHERE]
    nothing = nearest <= scores[:, ELSEWHERE]
    lead = (nearest - scores[:, DENIAL]).float()
    over_all = (nearest - scores[:, :FIRST].amax(-1)).float()
    if denial is not None:
        scores = scores.index_add(1, torch.tensor([DENIAL], device=scores.device), denial[:, None].to(scores))
    entries = scores.argmax(-1)
    said = entries != ELSEWHERE
    if share is not None:
        open_by = torch.logit(share[:, 0].float(), eps=_SHUT)
        shut, sure = open_by <= 0, over_all + open_by + _GIVEN_BACK
        out = (over_all <= 0) | (sure <= 0) | (share[:, 0] == 0)
        nothing = torch.where(shut, out, nothing)
        lead = torch.where(shut, sure, lead)
        said &= ~shut | (~out & (entries >= FIRST))
    added = F.embedding(entries, values) * said[:, None]
    return Found(added=added.to(hidden.dtype), lead=lead.masked_fill(nothing, math.nan), said=said)


def only_at_ends(share: Tensor, ends: Tensor) -> Tensor:
    """Shares, [n, 1], of which those that are shut count as 0 where no prompt ends: what stands within one asks for
    what the gates say it does."""
    return torch.where(ends[:, None] | (share > 0.5), share, torch.zeros_like(share))


def fit(states: Tensor, entries: Sequence[int], *, layer: int, mark: int, seed: int) -> Codebook:
    """Find keys by states, [n, size], each of the entry beside it. Values are still to be learnt: they are drawn.

    Same numbers and seed, same keys.
    """
    device, states = states.device, states.float()
    of = torch.tensor(entries, device=device)
    own = states[of != ELSEWHERE]
    chance = torch.Generator().manual_seed(seed)
    made = Codebook(layer, mark, own.mean(0), own.std(0) + 1e-3, entries=max(FIRST, int(of.max()) + 1))
    with torch.no_grad():
        made.keys.normal_(generator=chance)
        made.values[DENIAL:].normal_(generator=chance)
    made = made.to(device)
    known = F.normalize(made.scaled(states), dim=-1) * _LONG
    optimizer = torch.optim.AdamW([made.keys, made.bias, made.sharpness], lr=_RATE, weight_decay=_DECAY)
    for step in range(_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / _STEPS))
        some = torch.randint(len(known), (_BATCH,), generator=chance).to(device)
        blurred = known[some] + _BLUR * torch.randn(_BATCH, known.shape[1], generator=chance).to(device)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(made._by_keys(F.normalize(blurred, dim=-1)), of[some]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    made.exemplify(states, of)
    made.warier(_WARY)
    return made


def read(folder: Path, *, id: str) -> Codebook | None:
    """The codebook beside an adapter's files, on the CPU; None: it has none.

    Raises:
        AdapterRefused: a broken file.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        with safe_open(str(file), framework="pt") as opened:
            layer, _, mark = (opened.metadata() or {}).get("layer and mark", "").partition(" ")
            whole = all(n.isdecimal() and len(n) < 9 for n in (layer, mark))
            names = set(opened.keys())
            if names not in ({*_NAMES}, {*_NAMES, *_EXAMPLES}) or not whole:
                raise AdapterRefused(f"adapter {id}: {FILE} is no codebook")
            tensors = {name: opened.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise AdapterRefused(f"adapter {id}: {error}") from error
    size, entries = tensors["mean"].numel(), tensors["bias"].numel()
    examples = tensors.setdefault("examples", torch.empty(0, size, dtype=torch.float16))
    of = tensors.setdefault("of", torch.empty(0, dtype=torch.int64))
    expected = {"mean": [size], "deviation": [size], "keys": [entries, size], "bias": [entries], "sharpness": []}
    expected |= {"values": [entries, size], "examples": [of.numel(), size], "of": [of.numel()]}
    fits = all(list(tensors[name].shape) == shape for name, shape in expected.items())
    if not FIRST <= entries <= _MOST_ENTRIES or of.numel() > _MOST_EXAMPLES or not fits:
        raise AdapterRefused(f"adapter {id}: the parts of its codebook do not fit each other")
    if any(tensors[n].dtype != torch.float32 for n in _NAMES) or examples.dtype != torch.float16:
        raise AdapterRefused(f"adapter {id}: its codebook holds numbers of another kind")
    if not all(bool(tensors[n].isfinite().all()) for n in (*_NAMES, "examples")):
        raise AdapterRefused(f"adapter {id}: its codebook holds what is no finite number")
    if not bool((tensors["deviation"] > 0).all()):
        raise AdapterRefused(f"adapter {id}: its codebook holds a deviation that is not above zero")
    if of.dtype != torch.int64 or not bool(((of > ELSEWHERE) & (of < entries)).all()):
        raise AdapterRefused(f"adapter {id}: its codebook holds examples of entries that it has not")
    made = Codebook(int(layer), int(mark), tensors["mean"], tensors["deviation"], entries=entries)
    made.examples, made.of = examples, of
    made.load_state_dict(tensors)
    return made.requires_grad_(False)

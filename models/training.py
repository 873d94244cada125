"""How a low-rank adapter is trained: what a night does with its examples. Knows no night and no fact.

LoRA (Hu et al. 2021) through peft, on the upper layers alone. What makes it quick on a CPU: rows that begin alike (the
system's message) are packed behind one copy of that beginning; what the frozen lower layers make of a row is computed
once and kept; logits only where there is something to learn. What makes it quick on a GPU: a step is one CUDA graph
(`graphed`). What keeps the base as it was: beside each step's examples, replies to other prompts, held to the base's
own distribution (KL; its likeliest tokens are kept with each); and a gate (`gate`), which tells those from what is
taught and has the adapter act on the latter alone.
"""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import gate as gates
from models import judged, spectrum
from models.batch_decoding import decode
from models.chat_template import ChatTemplate
from models.elastic import fisher, tether
from models.gate import Gate
from models.graphed import Graphed
from models.language import Message
from models.packed_rows import PackedRows
from models.padded_rows import STEP_OF_LENGTHS, PaddedRows, empty, fill
from models.trainable import Trainable
from models.transformers_forward import PACKED
from models.whole_weights import WholeWeights, delta

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Who = Literal["candidate", "current", "base"]
"""Which weights speak: those in training, an adapter that was loaded beside them, or neither."""
MLP_TARGETS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train. The defaults are the winner of bench/recipes.py for the default model."""

    method: Literal["lora", "rslora", "dora", "full"] = "lora"
    """LoRA; scaled by the root of its rank (Kalajdzievski 2023); with the weights' lengths apart (Liu et al. 2024); or
    whole weights, kept as an adapter (whole_weights.py)."""
    rank: int = 32
    alpha: int = 64
    targets: tuple[str, ...] = MLP_TARGETS
    trained_share: float = 0.5
    """Of the layers, from the top."""
    learning_rate: float = 1e-3
    warmup_steps: int = 8
    epochs: int = 3
    batch: int = 8
    """Examples a step."""
    rehearsed: int = 1
    """Replies that are held to the base, a step."""
    kl_weight: float = 1.0
    gate: int = 64
    """Width of the classifier that says where the adapter acts; 0: everywhere. It needs something that is rehearsed to
    tell from, and products of low rank: with DoRA and full fine-tuning there is none."""
    noise: float = 0.3
    """What a question looks like beneath the trained layers is blurred by so many deviations, anew each time it is
    learnt from, for it will be asked in other words (as NEFTune does with embeddings, Jain et al. 2023)."""
    ewc_weight: float = 0.0
    """Of elastic weight consolidation (elastic.py) towards the base; 0: none."""
    clip: float = 1.0
    learnt_weight: float = 1.0
    """What a token counts that is likelier than 0.5 already; by MemFT (2605.30260) greedy recall needs no more."""
    rehearsed_tokens: int = 48
    """Of a reply that is rehearsed, so many from its beginning."""
    pack_tokens: int = 1024
    """At most this many in one packed row."""
    kept: float = 1.0
    """The adapter is scaled to this part of what was trained: between base and tuned weights much of the drift goes
    before what was learnt does (WiSE-FT, 2109.01903). With a gate there is little of it."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method == "dora" and self.kept != 1.0:
            raise ValueError("DoRA cannot be scaled by a factor: kept must be 1.0")

    @property
    def gated(self) -> bool:
        """Whether the adapter is to have a gate."""
        return self.gate > 0 and self.method in ("lora", "rslora")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One example: what follows the shared beginning, and from where on it is to be learnt."""

    token_ids: tuple[int, ...]
    target_from: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A reply, with the base's likeliest tokens at each target: indices and log-probabilities, [targets, k]."""

    row: Row
    likeliest: Tensor
    log_probabilities: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class InTalk:
    """Some of what is taught, and some of what is rehearsed, in the middle of a conversation: for the gate.

    It has seen nothing but first messages otherwise, and shuts in the second (docs/log.md, 2026-11-27, night).
    """

    taught: Sequence[Row] = ()
    rehearsed: Sequence[Row] = ()


@dataclass(slots=True)
class Progress:
    """How far a training is."""

    step: int = 0
    steps: int = 0
    loss: float = math.nan
    kl: float = math.nan
    tokens: int = 0
    """Read by the trained layers, forward and backward."""
    seconds: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    """Step, loss and KL."""


Learn = Callable[[Sequence[Row], Sequence[Rehearsal], Progress], None]
"""Leaves the gradients of one step with the parameters."""
Blur = Callable[[Tensor, Row], None]
"""Blurs an example's question in place, given what enters the first trained layer of the row, [tokens, width]."""


@dataclass(slots=True)
class _Pack:
    hidden: Tensor
    """[1, tokens, width]: what enters the first trained layer."""
    layout: PackedRows
    places: Tensor
    """Where the targets are predicted."""
    borders: list[int]
    """How many targets each row has."""


class Trainer:
    """One model, frozen, with one adapter on its upper layers. Takes the model for itself.

    `start`: an adapter's folder to go on from; its rank and layers then hold, not the recipe's.
    """

    def __init__(self, trainable: Trainable, recipe: Recipe, *, start: Path | None = None) -> None:
        from peft import LoraConfig, PeftModel, get_peft_model

        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self._trainable = trainable
        self._prefix = _shared_beginning(trainable.template)
        model = trainable.model
        layers = model.config.num_hidden_layers
        self.layers: int = layers
        self.first: int = layers - max(1, round(layers * recipe.trained_share))
        model.requires_grad_(False)
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=0.0,
            bias="none",
            use_rslora=recipe.method == "rslora",
            use_dora=recipe.method == "dora",
            target_modules=list(recipe.targets),
            layers_to_transform=list(range(self.first, layers)),
            task_type="CAUSAL_LM",
        )
        if start is not None:
            config = LoraConfig.from_pretrained(str(start))
            self.first = min(config.layers_to_transform)
        with warnings.catch_warnings():  # peft asks transformers by a name that is going out of use
            warnings.simplefilter("ignore", FutureWarning)
            self.peft = (
                get_peft_model(model, config, adapter_name="candidate")
                if start is None
                else PeftModel.from_pretrained(model, str(start), adapter_name="candidate", is_trainable=True)
            )
        base: Any = self.peft.get_base_model()
        self._body, self._head = base.model, base.lm_head
        self._device = next(self._head.parameters()).device
        self._dtype = self._head.weight.dtype
        self._gates: dict[str, Gate] = {}
        self._open: dict[str, Tensor] = {}
        """How far each gated adapter acts on each token of the pass under way."""
        if start is not None:
            self._have_gate("candidate", gates.read(start, id="candidate"))
        self._asked: dict[str, Row] = {}
        self._lower: dict[Row, Tensor] = {}
        self._lower_prefix: Tensor | None = None

    def row(self, said: str, reply: str, *, before: Sequence[Message] = ()) -> Row:
        """The example that `reply` is to follow what was said."""
        template = self._trainable.template
        prompt = template.chat_ids([*before, Message(role="user", content=said)]) or []
        target = [*template.encode_plain(reply), *template.closing_ids()[:1]]
        start = len(self._prefix)
        assert prompt[:start] == self._prefix
        return Row(token_ids=(*prompt[start:], *target), target_from=len(prompt) - start)

    def load_current(self, folder: Path) -> None:
        """Load another adapter beside the one in training, to be asked the same."""
        self.peft.load_adapter(str(folder), adapter_name="current", is_trainable=False)
        self.peft.set_adapter("candidate")
        self._have_gate("current", gates.read(folder, id="current"))

    def _have_gate(self, name: str, gate: Gate | None) -> None:
        """Let an adapter act only as far as its gate is open."""
        if gate is None:
            return
        gate = self._gates[name] = gate.to(self._device)

        def judge(_: Any, inputs: Any, named: Any) -> None:
            self._open[name] = gate(inputs[0] if inputs else named["hidden_states"])

        def act(_: Any, __: Any, added: Tensor) -> Tensor:
            return added * self._open[name].to(added.dtype)

        self._body.layers[gate.layer].register_forward_pre_hook(judge, with_kwargs=True)
        for layer in self._adapted(name):
            layer.lora_B[name].register_forward_hook(act)

    def scale(self, by: float) -> None:
        """Make the adapter's part in every product so much of what it was."""
        with torch.no_grad():
            for name, parameter in self.peft.named_parameters():
                if ".lora_B.candidate." in name:
                    parameter.mul_(by)

    @contextmanager
    def _speaking(self, who: Who) -> Iterator[None]:
        if who == "base":
            with self.peft.disable_adapter():
                yield
            return
        if who == "current":
            self.peft.set_adapter("current")
        try:
            yield
        finally:
            if who == "current":
                self.peft.set_adapter("candidate")

    def replies(
        self,
        questions: Sequence[str],
        *,
        most: int,
        who: Who = "candidate",
        batch: int | None = None,
        begun: Sequence[str] = (),
        temperature: float = 0.0,
    ) -> list[str]:
        """What the model says to each question by itself, at most `most` tokens; greedy at temperature 0.

        `begun`: how each reply begins; the rest is returned. `batch`: so many at once; None: as suits the device.
        """
        batch = batch or (_AT_ONCE if self._device.type == "cpu" else _AT_ONCE_ON_GPU)
        template = self._trainable.template
        prompts = [template.chat_ids([Message(role="user", content=q)]) or [] for q in questions]
        if begun:
            prompts = [[*p, *template.encode_plain(b)] for p, b in zip(prompts, begun, strict=True)]
        made: list[str] = []
        while len(made) < len(prompts):
            try:
                with self._speaking(who):
                    some = decode(
                        self.peft,
                        prompts[len(made) : len(made) + batch],
                        most=most,
                        stop_ids=self._trainable.stop_ids,
                        temperature=temperature,
                    )
            except torch.cuda.OutOfMemoryError:
                if batch == 1:
                    raise
                batch //= 2
                continue
            made += map(self._trainable.decode, some)
        return made

    def leanings(self, questions: Sequence[str], *, to: str, rather_than: str) -> list[float]:
        """How much likelier the reply to each question begins one way than another: a difference of logits, in nats."""
        one, other = (self._trainable.template.encode_plain(reply)[0] for reply in (to, rather_than))
        found: list[float] = []
        with torch.no_grad():
            for group in self._grouped([self.row(question, "") for question in questions]):
                self.remember_lower(group)
                begun = self._logits(self._pack(group))  # one place a row: where its reply begins
                found += (begun[:, one] - begun[:, other]).tolist()
                for row in group:
                    self._lower.pop(row, None)
        return found

    def states(self, questions: Sequence[str], *, below: int) -> Tensor:
        """[questions, width], float32: what enters layer `below`, a trained one, where the reply to each begins."""
        for question in questions:
            if question not in self._asked:  # rendering the template takes longer than the layers do on a GPU
                self._asked[question] = self.row(question, "")
        rows = [self._asked[question] for question in questions]
        self.remember_lower(rows)
        found = []
        for group in self._grouped(rows):
            pack = self._pack(group)
            with self._precisely():
                hidden = self._through(pack.hidden, pack.layout, self.first, below)
            found.append(hidden[0, pack.places].float())
        return torch.cat(found)

    def merge(self) -> None:
        """Add the adapter to the weights, for a writer that only speaks: a third faster, and never to be trained."""
        assert not self._gates
        self.peft.merge_adapter()

    def save(self, folder: Path) -> None:
        """Write the adapter as peft's files, in float32, and its gate beside them."""
        self.peft.save_pretrained(str(folder), safe_serialization=True, selected_adapters=["candidate"])
        inner = folder / "candidate"  # where peft puts all but its default
        for file in inner.iterdir():
            file.replace(folder / file.name)
        inner.rmdir()
        if "candidate" in self._gates:
            self._gates["candidate"].save(folder)

    def drift(self, rows: Sequence[Row], *, who: Who = "candidate") -> float:
        """KL of the adapted model from the base on the rows' targets, in nats per token."""
        self.remember_lower(rows)
        total, tokens = 0.0, 0
        with torch.no_grad():
            for group in self._grouped(rows):
                pack = self._pack(group)
                with self.peft.disable_adapter():
                    base = self._log_probabilities(pack)
                with self._speaking(who):
                    adapted = self._log_probabilities(pack)
                total += float((base.exp() * (base - adapted)).sum())
                tokens += len(base)
        return total / max(1, tokens)

    def norm(self) -> float:
        """How large the adapter is beside the weights that it is on (models/spectrum.py)."""
        return spectrum.norm(
            (
                layer.base_layer.weight,
                layer.lora_A["candidate"].weight,
                layer.lora_B["candidate"].weight * layer.scaling["candidate"],
            )
            for layer in self._adapted()
        )

    @property
    def dtype(self) -> str:
        """Of the weights, by name."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        return sum(p.numel() for p in self.peft.parameters() if p.requires_grad)

    def remember_lower(self, rows: Sequence[Row]) -> None:
        """Compute what enters the first trained layer for each row, once."""
        with torch.no_grad():
            for group in self._grouped([r for r in dict.fromkeys(rows) if r not in self._lower]):
                token_ids = [*self._prefix, *(t for row in group for t in row.token_ids)]
                hidden = self._body.embed_tokens(torch.tensor([token_ids], device=self._device))
                hidden = self._through(hidden, self._layout(group), 0, self.first)
                start = len(self._prefix)
                if self._lower_prefix is None:
                    self._lower_prefix = hidden[0, :start].clone()
                for row in group:
                    self._lower[row] = hidden[0, start : start + len(row.token_ids)].clone()
                    start += len(row.token_ids)

    def judged_by_base(self, rows: Sequence[Row], k: int = 32, *, file: Path | None = None) -> list[Rehearsal]:
        """What the base finds likely in each row's targets, as many of them as are rehearsed.

        `file`: where it is kept; of one base and recipe.
        """
        most = self.recipe.rehearsed_tokens
        rows = [replace(row, token_ids=row.token_ids[: row.target_from + most]) for row in rows]
        which = judged.Rows(
            prefix_ids=self._prefix,
            token_ids=[row.token_ids for row in rows],
            targets_from=[row.target_from for row in rows],
        )
        before = None if file is None else judged.kept(file, which, self._dtype)
        if before is not None and before.likeliest.shape[-1] == k:
            return self._taken_up(before, rows)
        made = self._judged(rows, k)
        if file is not None:
            assert self._lower_prefix is not None
            found = judged.Judged(
                prefix=self._lower_prefix,
                lower=torch.cat([self._lower[row] for row in rows]),
                likeliest=torch.cat([r.likeliest for r in made]),
                log_probabilities=torch.cat([r.log_probabilities for r in made]),
            )
            judged.keep(found, file, which)
        return made

    def _taken_up(self, before: judged.Judged, rows: Sequence[Row]) -> list[Rehearsal]:
        here = self._device
        self._lower_prefix = before.prefix.to(here)
        lower, end = before.lower.to(here), 0
        for row in rows:
            self._lower[row] = lower[end : (end := end + len(row.token_ids))]
        targets = [len(row.token_ids) - row.target_from for row in rows]
        tops, logs = before.likeliest.to(here), before.log_probabilities.to(here)
        places = [slice(end - n, end) for n, end in zip(targets, accumulate(targets), strict=True)]
        return [
            Rehearsal(row=row, likeliest=tops[of], log_probabilities=logs[of])
            for row, of in zip(rows, places, strict=True)
        ]

    def _judged(self, rows: Sequence[Row], k: int) -> list[Rehearsal]:
        self.remember_lower(rows)
        made = []
        with torch.no_grad(), self.peft.disable_adapter():
            for group in self._grouped(rows):
                pack = self._pack(group)
                log_probabilities = self._log_probabilities(pack)
                for row, of in zip(group, torch.split(log_probabilities, pack.borders), strict=True):
                    top = of.topk(k, dim=-1)
                    made.append(Rehearsal(row=row, likeliest=top.indices, log_probabilities=top.values))
        return made

    def train(
        self,
        rows: Sequence[Row],
        rehearsals: Sequence[Rehearsal],
        *,
        in_talk: InTalk | None = None,
        each: Callable[[Progress], None] = lambda _: None,
    ) -> Progress:
        """Fit the adapter to `rows`, held to `rehearsals`. `each` is called after every step, and may raise to stop."""
        recipe, began = self.recipe, time.monotonic()
        self.remember_lower([*rows, *(r.row for r in rehearsals)])
        if recipe.gated and rehearsals and "candidate" not in self._gates:
            self._have_gate("candidate", self._gate_between(rows, rehearsals, in_talk or InTalk()))
        blur = self._blurring(rows)
        chance = random.Random(recipe.seed)  # noqa: S311 - no secret
        batches = list(_batches(rows, recipe, chance))
        importance = self._importance(rehearsals) if recipe.ewc_weight else []
        whole = WholeWeights(self._adapted()) if recipe.method == "full" else None
        parameters = whole.parameters if whole else [p for p in self.peft.parameters() if p.requires_grad]
        graphed = self._device.type == "cuda" and recipe.method in ("lora", "rslora") and not importance
        learn = (
            self._learning_padded(rows, rehearsals, parameters, blur) if graphed else partial(self._learn, blur=blur)
        )
        optimizer = torch.optim.AdamW(
            parameters, lr=recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.99), fused=graphed or None
        )
        progress = Progress(steps=len(batches))
        rehearsal_order: list[Rehearsal] = []
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(progress.step, len(batches), recipe.warmup_steps)
            rehearsed: list[Rehearsal] = []
            while rehearsals and len(rehearsed) < recipe.rehearsed:
                if not rehearsal_order:
                    rehearsal_order = list(rehearsals)
                    chance.shuffle(rehearsal_order)
                rehearsed.append(rehearsal_order.pop())
            learn(batch, rehearsed, progress)
            if importance:
                moved = whole.deltas() if whole else [delta(layer) for layer in self._adapted()]
                (recipe.ewc_weight * tether(moved, importance)).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
            progress.step += 1
            progress.seconds = time.monotonic() - began
            progress.curve.append((progress.step, progress.loss, progress.kl))
            each(progress)
        if whole:
            whole.fold()
        if recipe.kept != 1.0:
            self.scale(recipe.kept)
        return progress

    def _gate_between(self, rows: Sequence[Row], rehearsals: Sequence[Rehearsal], talk: InTalk) -> Gate:
        """A gate for replies, and the markup before them, of what is taught, against those of what is rehearsed."""
        self.remember_lower([*talk.taught, *talk.rehearsed])
        inside, outside = (
            torch.cat([self._lower[row][max(0, row.target_from - _MARKUP) :] for row in of])
            for of in (
                [*rows, *_TALK_COUNTS * list(talk.taught)],
                [*(r.row for r in rehearsals), *_TALK_COUNTS * list(talk.rehearsed)],
            )
        )
        for row in {*talk.taught, *talk.rehearsed} - {*rows, *(r.row for r in rehearsals)}:
            del self._lower[row]  # long, and not needed again
        with torch.enable_grad():
            return gates.fit(inside, outside, layer=self.first, width=self.recipe.gate, seed=self.recipe.seed)

    def _adapted(self, name: str = "candidate") -> list[Any]:
        """The layers that an adapter is on."""
        return [m for m in self.peft.modules() if name in getattr(m, "lora_A", ())]

    def _importance(self, rehearsals: Sequence[Rehearsal]) -> list[Tensor]:
        """What the base leans on for the replies that are rehearsed, by weight."""

        def loss(row: Row) -> Tensor:
            return self._surprise([(row, self._logits(self._pack([row])))])

        with self.peft.disable_adapter():
            return fisher(self._adapted(), [partial(loss, r.row) for r in rehearsals])

    def _blurring(self, rows: Sequence[Row]) -> Blur:
        """As much as rows like these lie apart."""
        deviation = torch.cat([self._lower[row] for row in rows[:_SEEN]]).float().std(0) * self.recipe.noise
        chance = torch.Generator(self._device).manual_seed(self.recipe.seed)

        def blur(hidden: Tensor, row: Row) -> None:
            question = row.target_from - 1  # not where the reply is begun from
            if self.recipe.noise:
                noise = torch.randn(question, len(deviation), generator=chance, device=self._device) * deviation
                hidden[:question] += noise.to(hidden.dtype)

        return blur

    def _learn(
        self,
        rows: Sequence[Row],
        rehearsals: Sequence[Rehearsal],
        progress: Progress,
        *,
        blur: Blur,
    ) -> None:
        """The gradients of one step: examples and rehearsals behind one copy of the beginning, in one pass."""
        for parameter in self.peft.parameters():
            parameter.grad = None
        by_row = {r.row: r for r in rehearsals}
        learnt = sum(len(r.token_ids) - r.target_from for r in rows)
        held = sum(len(r.likeliest) for r in by_row.values())
        progress.loss, progress.kl = 0.0, 0.0
        for group in self._grouped([*rows, *by_row]):
            pack = self._pack(group, blur=blur, held=by_row)
            progress.tokens += pack.hidden.shape[1]
            logits = torch.split(self._logits(pack), pack.borders)
            examples = [(row, of) for row, of in zip(group, logits, strict=True) if row not in by_row]
            others = [(by_row[row], of) for row, of in zip(group, logits, strict=True) if row in by_row]
            parts = []
            if examples:
                parts.append(self._surprise(examples) / learnt)
                progress.loss += float(parts[-1].detach())
            if others:
                parts.append(_departure(others) / held)
                progress.kl += float(parts[-1].detach())
                parts[-1] = parts[-1] * self.recipe.kl_weight
            sum(parts).backward()  # type: ignore[union-attr]

    def _learning_padded(
        self,
        rows: Sequence[Row],
        rehearsals: Sequence[Rehearsal],
        parameters: Sequence[Tensor],
        blur: Blur,
    ) -> Learn:
        """The same gradients by steps of equal shapes: on a GPU, one launch each."""
        recipe, beginning = self.recipe, self._lower_prefix
        assert beginning is not None
        examples = recipe.batch * max(len(r.token_ids) - r.target_from for r in rows)
        held = recipe.rehearsed * max((len(r.likeliest) for r in rehearsals), default=0)
        k = rehearsals[0].likeliest.shape[-1] if rehearsals else 1
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]

        def run(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            torch._foreach_zero_(gradients)
            surprise, departure = self._of_padded(PaddedRows(*given))
            (surprise + recipe.kl_weight * departure).backward()  # type: ignore[no-untyped-call]
            return surprise.detach(), departure.detach()

        run_it = Graphed(run) if self._device.type == "cuda" else run

        def learn(batch: Sequence[Row], rehearsed: Sequence[Rehearsal], progress: Progress) -> None:
            longest = len(beginning) + max(len(r.token_ids) for r in [*batch, *(r.row for r in rehearsed)])
            longest = -(-longest // STEP_OF_LENGTHS) * STEP_OF_LENGTHS
            room = (recipe.batch + recipe.rehearsed, longest, beginning.shape[-1], examples, held, k)
            padded = empty(*room, like=beginning)
            self._lay_out(padded, batch, rehearsed, blur)
            surprise, departure = run_it(tuple(padded))
            progress.loss, progress.kl = torch.stack([surprise, departure]).tolist()
            progress.tokens += padded.hidden.shape[0] * longest

        return learn

    def _lay_out(
        self,
        padded: PaddedRows,
        batch: Sequence[Row],
        rehearsed: Sequence[Rehearsal],
        blur: Blur,
    ) -> None:
        """Write a step's examples, then what is rehearsed, into rows that are all padding."""
        assert self._lower_prefix is not None
        start, longest = len(self._lower_prefix), padded.hidden.shape[1]
        places: list[int] = []
        learnt = 0
        for n, row in enumerate([*batch, *(r.row for r in rehearsed)]):
            own = padded.hidden[n, start : start + len(row.token_ids)]
            padded.hidden[n, :start] = self._lower_prefix
            own.copy_(self._lower[row])
            at = n * longest + start
            places += range(at + row.target_from - 1, at + len(row.token_ids) - 1)
            if n < len(batch):
                blur(own, row)
                learnt = len(places)
        fill(padded.places, places[:learnt])
        fill(padded.labels, [t for row in batch for t in row.token_ids[row.target_from :]])
        padded.shares[:learnt] = 1 / max(1, learnt)
        held = len(places) - learnt
        if held:
            fill(padded.held_places, places[learnt:])
            padded.likeliest[:held] = torch.cat([r.likeliest for r in rehearsed])
            padded.log_probabilities[:held] = torch.cat([r.log_probabilities for r in rehearsed]).float()
            padded.held_shares[:held] = 1 / held

    def _of_padded(self, padded: PaddedRows) -> tuple[Tensor, Tensor]:
        """Surprise at what is learnt, and departure from the base, each the mean of its targets."""
        hidden, longest = padded.hidden, padded.hidden.shape[1]
        positions = torch.arange(longest, device=self._device)[None]
        with self._precisely(), self._attending("sdpa"), sdpa_kernel(SDPBackend.MATH):
            embeddings = self._body.rotary_emb(hidden, positions)
            for layer in self._body.layers[self.first :]:
                out = layer(
                    hidden,
                    attention_mask=None,  # causal; what pads a row comes after it
                    position_ids=positions,
                    position_embeddings=embeddings,
                    use_cache=False,
                )
                hidden = out[0] if isinstance(out, tuple) else out
            judged = hidden.flatten(0, 1)[torch.cat([padded.places, padded.held_places])]
            logits = self._head(self._body.norm(judged)).float()
        examples = len(padded.places)
        surprise = (self._losses(logits[:examples], padded.labels) * padded.shares).sum()
        student = F.log_softmax(logits[examples:], dim=-1).gather(1, padded.likeliest)
        return surprise, (divergence(padded.log_probabilities, student) * padded.held_shares).sum()

    def _surprise(self, examples: Sequence[tuple[Row, Tensor]]) -> Tensor:
        """-ln P of what is to be learnt, summed."""
        labels = torch.tensor([t for row, _ in examples for t in row.token_ids[row.target_from :]], device=self._device)
        return self._losses(torch.cat([of for _, of in examples]), labels).sum()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """-ln P of each label, [targets], what is learnt already weighted as the recipe says."""
        losses = F.cross_entropy(logits, labels, reduction="none")
        if self.recipe.learnt_weight != 1.0:
            losses = losses * torch.where(losses.detach() < math.log(2), self.recipe.learnt_weight, 1.0)
        return losses

    def _logits(self, pack: _Pack) -> Tensor:
        with self._precisely():
            hidden = self._through(pack.hidden, pack.layout, self.first, len(self._body.layers))
            logits: Tensor = self._head(self._body.norm(hidden[0, pack.places]))
        return logits.float()

    def _precisely(self) -> Any:
        """Products in the weights' dtype, the adapter's numbers in float32."""
        half = self._dtype is torch.bfloat16
        # Nothing is cast twice in a pass, and what was kept of it would outlive the recording of a graph.
        return torch.autocast(self._device.type, torch.bfloat16, enabled=half, cache_enabled=False)

    def _log_probabilities(self, pack: _Pack) -> Tensor:
        return F.log_softmax(self._logits(pack), dim=-1)

    def _through(self, hidden: Tensor, layout: PackedRows, start: int, end: int) -> Tensor:
        positions = layout.positions
        embeddings = self._body.rotary_emb(hidden, positions)
        with self._attending(PACKED):
            for layer in self._body.layers[start:end]:
                out = layer(
                    hidden,
                    attention_mask=None,
                    position_ids=positions,
                    position_embeddings=embeddings,
                    use_cache=False,
                    packed=layout,
                )
                hidden = out[0] if isinstance(out, tuple) else out
        return hidden

    @contextmanager
    def _attending(self, how: str) -> Iterator[None]:
        config = self._body.config
        before, config._attn_implementation = config._attn_implementation, how
        try:
            yield
        finally:
            config._attn_implementation = before

    def _grouped(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Rows that are packed together, in order."""
        group: list[Row] = []
        size = len(self._prefix)
        for row in rows:
            if group and size + len(row.token_ids) > self.recipe.pack_tokens:
                yield group
                group, size = [], len(self._prefix)
            group.append(row)
            size += len(row.token_ids)
        if group:
            yield group

    def _layout(self, rows: Sequence[Row]) -> PackedRows:
        return PackedRows.of(len(self._prefix), [len(r.token_ids) for r in rows], self._device)

    def _pack(self, rows: Sequence[Row], *, blur: Blur = lambda hidden, row: None, held: Collection[Row] = ()) -> _Pack:
        """`blur`: of all but what is held."""
        assert self._lower_prefix is not None
        hidden = torch.cat([self._lower_prefix, *(self._lower[r] for r in rows)])[None]
        places: list[int] = []
        start = len(self._prefix)
        for row in rows:
            places += range(start + row.target_from - 1, start + len(row.token_ids) - 1)
            if row not in held:
                blur(hidden[0, start:], row)
            start += len(row.token_ids)
        return _Pack(
            hidden=hidden,
            layout=self._layout(rows),
            places=torch.tensor(places, device=self._device),
            borders=[len(r.token_ids) - r.target_from for r in rows],
        )


_AT_ONCE, _AT_ONCE_ON_GPU = 32, 256
"""Replies that are written at the same time."""
_SEEN = 300
"""Rows from which one sees how far states lie apart."""
_TALK_COUNTS = 4
"""So often as another row a row in talk counts for the gate, for they are few."""
_MARKUP = 5
"""Tokens between a question and its reply, about: where what was asked for is gathered."""


def _shared_beginning(template: ChatTemplate) -> list[int]:
    """The tokens with which every chat of one message begins."""
    one, other = (template.chat_ids([Message(role="user", content=c)]) or [] for c in ("A", "b"))
    return one[: next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)]


def _departure(rehearsals: Sequence[tuple[Rehearsal, Tensor]]) -> Tensor:
    """KL from the base on what is rehearsed, summed."""
    likeliest = torch.cat([r.likeliest for r, _ in rehearsals])
    teacher = torch.cat([r.log_probabilities for r, _ in rehearsals]).float()
    student = F.log_softmax(torch.cat([of for _, of in rehearsals]), dim=-1)
    return divergence(teacher, student.gather(1, likeliest)).sum()


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) in nats, [targets], from log-probabilities [targets, k] of the teacher's k likeliest
    tokens; all others count as one."""
    rest_teacher = torch.log1p(-teacher.exp().sum(-1).clamp(max=1 - 1e-6))
    rest_student = torch.log1p(-student.exp().sum(-1).clamp(max=1 - 1e-6))
    inside = (teacher.exp() * (teacher - student)).sum(-1)
    return inside + rest_teacher.exp() * (rest_teacher - rest_student)


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batches(rows: Sequence[Row], recipe: Recipe, chance: random.Random) -> Iterator[list[Row]]:
    for _ in range(recipe.epochs):
        order = list(rows)
        chance.shuffle(order)
        for start in range(0, len(order), recipe.batch):
            yield order[start : start + recipe.batch]

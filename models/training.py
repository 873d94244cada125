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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import gate as gates
from models import judged
from models.elastic import fisher, tether
from models.gate import Gate
from models.graphed import Graphed
from models.padded_rows import STEP_OF_LENGTHS, PaddedRows, empty, fill
from models.recipe import Recipe
from models.rows import InTalk, Rehearsal, Row
from models.tuned import Blur, Tuned
from models.whole_weights import WholeWeights, delta


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


class Trainer(Tuned):
    """The same, learning."""

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
        with torch.no_grad(), self._speaking("base"):
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
            self._have_gates("candidate", [self._gate_between(rows, rehearsals, in_talk or InTalk())])
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
                group["lr"] = recipe.learning_rate * schedule(progress.step, len(batches), recipe.warmup_steps)
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

    def _importance(self, rehearsals: Sequence[Rehearsal]) -> list[Tensor]:
        """What the base leans on for the replies that are rehearsed, by weight."""

        def loss(row: Row) -> Tensor:
            return self._surprise([(row, self._logits(self._pack([row])))])

        with self._speaking("base"):
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
                parts.append(departure(others) / held)
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
            surprise, departure = self._of_padded(PaddedRows(*given), first=self.first)
            (surprise + recipe.kl_weight * departure).backward()  # type: ignore[no-untyped-call]
            return surprise.detach(), departure.detach()

        run_it = Graphed(run) if self._device.type == "cuda" else run

        def learn(batch: Sequence[Row], rehearsed: Sequence[Rehearsal], progress: Progress) -> None:
            longest = len(beginning) + max(len(r.token_ids) for r in [*batch, *(r.row for r in rehearsed)])
            longest = -(-longest // STEP_OF_LENGTHS) * STEP_OF_LENGTHS
            room = (recipe.batch + recipe.rehearsed, longest, beginning.shape[-1], examples, held, k)
            padded = empty(*room, like=beginning)
            self._lay_out(padded, batch, rehearsed, beginning, self._lower.__getitem__, blur)
            surprise, departure = run_it(tuple(padded))
            progress.loss, progress.kl = torch.stack([surprise, departure]).tolist()
            progress.tokens += padded.hidden.shape[0] * longest

        return learn

    def _lay_out(
        self,
        padded: PaddedRows,
        batch: Sequence[Row],
        rehearsed: Sequence[Rehearsal],
        beginning: Tensor,
        entering: Callable[[Row], Tensor],
        blur: Blur,
    ) -> None:
        """Write a step's examples, then what is rehearsed, into rows that are all padding."""
        start, longest = len(beginning), padded.hidden.shape[1]
        places: list[int] = []
        learnt = 0
        for n, row in enumerate([*batch, *(r.row for r in rehearsed)]):
            own = padded.hidden[n, start : start + len(row.token_ids)]
            padded.hidden[n, :start] = beginning
            own.copy_(entering(row))
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

    def _of_padded(self, padded: PaddedRows, *, first: int) -> tuple[Tensor, Tensor]:
        """Surprise at what is learnt, and departure from the base, each the mean of its targets.

        `first`: the layer that the rows enter.
        """
        with self._precisely(), sdpa_kernel(SDPBackend.MATH):
            hidden = self._through_padded(padded.hidden, first, len(self._body.layers))
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


_SEEN = 300
"""Rows from which one sees how far states lie apart."""
_TALK_COUNTS = 4
"""So often as another row a row in talk counts for the gate, for they are few."""
_MARKUP = 5
"""Tokens between a question and its reply, about: where what was asked for is gathered."""


def departure(rehearsals: Sequence[tuple[Rehearsal, Tensor]]) -> Tensor:
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


def schedule(step: int, steps: int, warmup: int) -> float:
    """What a step's learning rate is multiplied by: a rise, then a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batches(rows: Sequence[Row], recipe: Recipe, chance: random.Random) -> Iterator[list[Row]]:
    for _ in range(recipe.epochs):
        order = list(rows)
        chance.shuffle(order)
        for start in range(0, len(order), recipe.batch):
            yield order[start : start + recipe.batch]

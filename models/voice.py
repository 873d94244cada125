"""The layers above a codebook, trained once to put any entry in words: a night then finds values and nothing else.

An entry's value is one vector, and a frozen model can be had to say a text by one vector that is found for it (Kuratov
et al. 2025). Here the layers that say it are trained on how a night uses them: many answers at a time, each with a
value that begins anew, is found by a few dozen steps of Adam while they learn, and makes room for another answer's (an
auto-decoder, Park et al. 2019, of values found as fast as by Zintgraf et al. 2019). Each is said after its own
questions and after as many of others', so that what is said goes by the value and not by the question's words. Denial
has one value, for all that is denied. Beside them the layers are held to the base where nothing was added.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.codebook import DENIAL, FIRST, Codebook
from models.codebook_training import CodebookTrainer, by_row
from models.rows import Rehearsal, Row
from models.training import Progress, departure, schedule
from models.tuned import Forced, middle
from models.values import Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """An answer, after questions of its own and of others."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schooling:
    """How the layers are trained."""

    steps: int = 1400
    answers: int = 512
    """At a time."""
    rows: int = 256
    """Of answers, a step."""
    visits: int = 24
    """Steps of each answer, until another takes its place."""
    unripe: int = 8
    """The first so many of them teach the layers little: nobody could say what a value does not hold yet."""
    denied: int = 32
    """Rows that deny, a step."""
    held: int = 48
    """Replies that are held to the base, a step."""
    kl_weight: float = 2.0
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    clip: float = 1.0
    seed: int = 0


class VoiceTrainer(CodebookTrainer):
    """A trainer whose upper layers learn to put entries in words."""

    def learn_voice(
        self,
        draw: Callable[[random.Random], Spoken],
        denials: Sequence[Row],
        rehearsals: Sequence[Rehearsal],
        states: Tensor,
        how: Schooling,
        *,
        each: Callable[[Progress], None] = lambda _: None,
    ) -> Progress:
        """Train what lies above the codebook, and keep a codebook of nothing but what nights' values begin from.

        `draw`: another answer each time. `states`: of questions, [n, size], as they enter the codebook's layer: what
        values are measured by.
        """
        chance, began = random.Random(how.seed), time.monotonic()  # noqa: S311 - no secret
        below = middle(self.first, self.layers)
        self._freeze(below)
        book = Codebook(below, self._mark, states.mean(0), states.std(0) + 1e-3, entries=FIRST + 1).to(self._device)
        book.requires_grad_(False).keys.zero_()
        book.bias[DENIAL:] = _NEVER
        self._have_codebook("candidate", book)
        spoken = [draw(chance) for _ in range(how.answers)]
        width = states.shape[1]
        values = Values(torch.zeros(how.answers, width, device=self._device), visits=how.visits)
        # As if they had begun at different times, so that some are ripe at every step.
        values.age[:] = torch.arange(how.answers, device=self._device) * how.visits // how.answers
        denial = torch.zeros(width, device=self._device, requires_grad=True)
        begun = torch.zeros(width, device=self._device)
        adapter = [p for p in self.peft.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [{"params": adapter, "rate": how.learning_rate}, {"params": [denial], "rate": 10 * how.learning_rate}],
            lr=0.0,
            weight_decay=0.0,
            betas=(0.9, 0.99),
        )
        progress = Progress(steps=how.steps)
        order: list[int] = []
        for step in range(how.steps):
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * schedule(step, how.steps, how.warmup_steps)
            order = order or chance.sample(range(how.answers), how.answers)
            order, some = order[how.rows :], order[: how.rows]
            which = torch.tensor(some, device=self._device)
            ages = values.age[which]
            rows = [spoken[n].rows[int(age) % len(spoken[n].rows)] for n, age in zip(some, ages.tolist(), strict=True)]
            rows += chance.sample(denials, min(how.denied, len(denials)))
            added = torch.cat([values.now[which], denial.expand(len(rows) - len(some), -1)]) * book.deviation
            weights = F.pad(ages / how.unripe, (0, len(rows) - len(some)), value=1.0).clamp(0.1, 1.0)
            held = chance.sample(list(rehearsals), min(how.held, len(rehearsals)))
            surprises, kl = self._said(rows, added, held)
            loss = (surprises * weights).sum() / weights.sum() + how.kl_weight * kl
            optimizer.zero_grad(set_to_none=True)
            values.now.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(adapter, how.clip)
            optimizer.step()
            values.step(which)
            for n in which[values.age[which] >= how.visits].tolist():
                begun.lerp_(values.now[n].detach(), _SLOWLY)
                spoken[n] = draw(chance)
                values.begin(n, begun)
            progress.step += 1
            ripe = ages >= how.visits // 2
            progress.loss, progress.kl = float(surprises.detach()[: len(some)][ripe].mean()), float(kl.detach())
            progress.seconds = time.monotonic() - began
            progress.curve.append((progress.step, progress.loss, progress.kl))
            each(progress)
        with torch.no_grad():
            book.values[DENIAL], book.values[FIRST] = denial, begun
        return progress

    def right(self, rows: Sequence[Row], added: Tensor) -> list[int]:
        """How many tokens of each row's reply, from its first, the model says by itself where `added` enters."""
        found = []
        with torch.no_grad():
            for start in range(0, len(rows), _ASKED_AT_ONCE):
                some = rows[start : start + _ASKED_AT_ONCE]
                logits, lengths = self._after(some, [], added[start : start + _ASKED_AT_ONCE])
                right = logits.argmax(-1) == self._labels(some)
                found += [int(of.long().cumprod(0).sum()) for of in torch.split(right, lengths)]
        return found

    def _said(self, rows: Sequence[Row], added: Tensor, held: Sequence[Rehearsal]) -> tuple[Tensor, Tensor]:
        """The mean surprise at each row's reply, [rows], where `added` enters; and the departure at what is held."""
        logits, lengths = self._after(rows, [r.row for r in held], added)
        own = lengths[: len(rows)]
        learnt = sum(own)
        surprises = by_row(F.cross_entropy(logits[:learnt], self._labels(rows), reduction="none"), own)
        others = torch.split(logits[learnt:], lengths[len(rows) :])
        kl = departure([*zip(held, others, strict=True)]) / (len(logits) - learnt) if held else logits.new_zeros(())
        return surprises, kl

    def _labels(self, rows: Sequence[Row]) -> Tensor:
        return torch.tensor([t for row in rows for t in row.token_ids[row.target_from :]], device=self._device)

    def _after(self, rows: Sequence[Row], others: Sequence[Row], added: Tensor) -> tuple[Tensor, list[int]]:
        """Logits of all targets, and how many each row has. Nothing is added to the others."""
        every, below, start = [*rows, *others], middle(self.first, self.layers), len(self._prefix)
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor([*self._prefix, *row.token_ids]) for row in every], batch_first=True
        ).to(self._device)
        longest = ids.shape[1]
        begun = [n * longest + start + row.target_from - 1 for n, row in enumerate(every)]
        lengths = [len(row.token_ids) - row.target_from for row in every]
        places = torch.cat([torch.arange(at, at + n) for at, n in zip(begun, lengths, strict=True)]).to(self._device)
        self._marked, self._forced = None, None
        with self._precisely():
            with torch.no_grad():
                hidden = self._through_padded(self._body.embed_tokens(ids), 0, below)
            starts = torch.tensor(begun[: len(rows)], device=self._device)
            after = torch.arange(longest, device=self._device)[None] >= (starts % longest)[:, None]
            self._forced = Forced(starts, added, F.pad(after, (0, 0, 0, len(others))))
            hidden = self._through_padded(hidden, below, len(self._body.layers))
            self._forced = None
            return self._head(self._body.norm(hidden.flatten(0, 1)[places])).float(), lengths


_ASKED_AT_ONCE = 256
_NEVER = -1e4
"""The bias of entries that nothing is to find: a night makes keys of its own."""
_SLOWLY = 0.01
"""By which part values' beginning goes with each that was found."""

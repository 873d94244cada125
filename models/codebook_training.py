"""How a codebook is learnt: what a night does with its examples where different wordings of a question look alike.

The adapter that it begins from stays as it is below the codebook, and so do its gates. Keys are found by where all
prompts come to (`codebook.fit`); then values, and the adapter above, are trained to put an entry in words: each answer
after some of its own questions and after as many of others', so that what is said goes by the entry and not by the
question's words.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from models.codebook import DENIAL, ELSEWHERE, FIRST, Codebook, fit
from models.graphed import Graphed
from models.padded_rows import STEP_OF_LENGTHS, PaddedRows, empty
from models.rows import InTalk, Rehearsal, Row
from models.training import Progress, Trainer, departure, schedule
from models.tuned import middle

_LEAST, _MOST, _IN_ALL = 5, 20, 860
"""Rows of each answer after its own questions, and as many after others'; of all answers together after their own. The
fewer answers there are, the more rows each has: pairs that are seen over and over are learnt by heart."""
_DENIED = 0.25
"""Of all rows, those that deny."""
_AJAR = 0.2
"""Where an adapter acts by less, its codebook is not asked."""
_HELD = 2
"""Replies that are rehearsed, a step."""
_STEPS_EACH, _LEAST_STEPS, _BATCH = 5, 400, 16
"""Steps for each answer, in all at least, and rows a step."""
_RATE, _VALUES_RATE = 2e-3, 2e-2

_READ_AT_ONCE = 512
"""Prompts whose states are held at a time."""

_Ids = tuple[int, ...]
_Said = tuple[Row, int]
"""A reply after a question, and the entry that it puts in words."""
_Say = Callable[[Sequence[_Said], Sequence[Rehearsal], Progress], None]
"""Leaves the gradients of one step with the parameters."""
_Kept = dict[Row | None, tuple[Tensor, Tensor]]
"""What enters the codebook's layer, of each row, and how far the adapter acts there; by None: of the beginning."""


class CodebookTrainer(Trainer):
    """A trainer whose adapter may have a codebook."""

    @property
    def by_entries(self) -> bool:
        """Whether what it began from is made for a codebook."""
        return self.recipe.codebook and "candidate" in self._gates

    def learn(
        self,
        rows: Sequence[Row],
        rehearsals: Sequence[Rehearsal],
        *,
        denied: Collection[Row] = (),
        in_talk: InTalk | None = None,
        each: Callable[[Progress], None] = lambda _: None,
    ) -> Progress:
        """Learn `rows`, of which some deny what they ask for, in entries if that can be; see `Trainer.train`."""
        if not self.by_entries:
            return self.train(rows, rehearsals, in_talk=in_talk, each=each)
        recipe, began, talk = self.recipe, time.monotonic(), in_talk or InTalk()
        chance = random.Random(recipe.seed)  # noqa: S311 - no secret
        answers: dict[tuple[int, ...], int] = {}
        entries = {
            row: DENIAL if row in denied else answers.setdefault(row.token_ids[row.target_from :], FIRST + len(answers))
            for row in rows
        }
        said = list(_to_be_said(entries, answers, chance))
        self.remember_lower([*(row for row, _ in said), *(r.row for r in rehearsals)])
        below = middle(self.first, self.layers)
        self._freeze(below)
        kept = self._kept_upper(list(dict.fromkeys([*(row for row, _ in said), *(r.row for r in rehearsals)])), below)
        states, of = self._come_to(_looked_at(entries, rehearsals, talk), kept, below)
        book = fit(states, of, layer=below, mark=self._mark, seed=recipe.seed)
        self._have_codebook("candidate", book)
        book.requires_grad_(False).values.requires_grad_(True)
        adapter = [p for p in self.peft.parameters() if p.requires_grad]
        recorded = self._device.type == "cuda"
        say = (self._saying_padded if recorded else self._saying_packed)(
            said, rehearsals, [*adapter, book.values], kept, book, below
        )
        optimizer = torch.optim.AdamW(
            [{"params": adapter, "rate": _RATE}, {"params": [book.values], "rate": _VALUES_RATE}],
            lr=0.0,
            weight_decay=0.0,
            betas=(0.9, 0.99),
            fused=recorded or None,
        )
        epochs = math.ceil(max(_LEAST_STEPS, _STEPS_EACH * len(answers)) * _BATCH / len(said))
        batches = [b for _ in range(epochs) for b in _batches(said, chance)]
        progress = Progress(steps=len(batches))
        rehearsed = _over_and_over(rehearsals, chance)
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * schedule(progress.step, len(batches), recipe.warmup_steps)
            held = [next(rehearsed) for _ in range(_HELD if rehearsals else 0)]
            say(batch, held, progress)
            torch.nn.utils.clip_grad_norm_([*adapter, book.values], recipe.clip)
            optimizer.step()
            progress.step += 1
            progress.seconds = time.monotonic() - began
            progress.curve.append((progress.step, progress.loss, progress.kl))
            each(progress)
        book.requires_grad_(False)
        return progress

    def _freeze(self, below: int) -> None:
        for layer in self._body.layers[:below]:
            layer.requires_grad_(False)

    def _come_to(self, looked_at: Mapping[_Ids, int], kept: _Kept, below: int) -> tuple[Tensor, list[int]]:
        """[n, width]: what enters the codebook's layer after each mark, and the entry that it asks for."""
        states: list[Tensor] = []
        of: list[int] = []

        def look(ids: Sequence[int], asked: int, read: tuple[Tensor, Tensor]) -> None:
            for at in (n for n, token in enumerate(ids) if token == self._mark):
                entry = asked if at == len(ids) - 1 else ELSEWHERE
                if entry != ELSEWHERE or read[1][at, 0] > _AJAR:
                    of.append(entry)
                    states.append(read[0][at].float())

        look(self._prefix, ELSEWHERE, kept[None])
        known = {ids: read for row, read in kept.items() if row for ids in (_prompt(row), row.token_ids[:-1])}
        for ids in (ids for ids in looked_at if ids in known):  # in their order: same night, same keys
            look(ids, looked_at[ids], known[ids])
        left = [Row(token_ids=(*ids, self._mark), target_from=len(ids)) for ids in looked_at if ids not in known]
        for start in range(0, len(left), _READ_AT_ONCE):
            some = left[start : start + _READ_AT_ONCE]
            self.remember_lower(some)
            for row, read in self._kept_upper(some, below).items():
                if row is not None:
                    look(_prompt(row), looked_at[_prompt(row)], read)
        return torch.stack(states), of

    def _kept_upper(self, rows: Sequence[Row], below: int) -> _Kept:
        kept: _Kept = {}
        with torch.no_grad():
            for group in self._grouped(rows):
                hidden = self._reaching(self._pack(group), below)[0]
                share = self._open["candidate"][0]
                at = len(self._prefix)
                kept.setdefault(None, (hidden[:at].clone(), share[:at].clone()))
                for row in group:
                    of = slice(at, at := at + len(row.token_ids))
                    kept[row] = hidden[of].clone(), share[of].clone()
                    self._lower.pop(row, None)  # not needed again
        return kept

    def _saying_packed(
        self,
        said: Sequence[_Said],
        rehearsals: Sequence[Rehearsal],
        parameters: Sequence[Tensor],
        kept: _Kept,
        book: Codebook,
        below: int,
    ) -> _Say:
        """Rows behind one copy of their beginning: no product is wasted."""

        def say(batch: Sequence[_Said], held: Sequence[Rehearsal], progress: Progress) -> None:
            for parameter in parameters:
                parameter.grad = None
            rows = [*(row for row, _ in batch), *(r.row for r in held)]
            hidden, share = (torch.cat(parts) for parts in zip(kept[None], *(kept[row] for row in rows), strict=True))
            self._open["candidate"] = share[None]
            starts, at = [], len(self._prefix)
            places: list[int] = []
            for row in rows:
                starts.append(at + row.target_from - 1)
                places += range(at + row.target_from - 1, at + len(row.token_ids) - 1)
                at += len(row.token_ids)
            begun = torch.tensor(starts[: len(batch)], device=self._device)
            entries = torch.tensor([entry for _, entry in batch], device=self._device)
            self._forced = begun, book.added(entries)
            with self._precisely():
                out = self._through(hidden[None], self._layout(rows), below, len(self._body.layers))
                logits = self._head(self._body.norm(out[0, torch.tensor(places, device=self._device)])).float()
            self._forced = None
            lengths = [len(row.token_ids) - row.target_from for row, _ in batch]
            learnt = sum(lengths)
            taught = zip((row for row, _ in batch), torch.split(logits[:learnt], lengths), strict=True)
            loss = self._surprise([*taught]) / learnt
            progress.loss, progress.tokens = float(loss.detach()), progress.tokens + at
            if held:
                others = torch.split(logits[learnt:], [len(r.likeliest) for r in held])
                kl = departure([*zip(held, others, strict=True)]) / max(1, len(logits) - learnt)
                progress.kl = float(kl.detach())
                loss = loss + self.recipe.kl_weight * kl
            loss.backward()  # type: ignore[no-untyped-call]

        return say

    def _saying_padded(
        self,
        said: Sequence[_Said],
        rehearsals: Sequence[Rehearsal],
        parameters: Sequence[Tensor],
        kept: _Kept,
        book: Codebook,
        below: int,
    ) -> _Say:
        """The same gradients by steps of equal shapes: on a GPU, one launch each."""
        recipe, (beginning, began_open) = self.recipe, kept[None]
        examples = _BATCH * max(len(row.token_ids) - row.target_from for row, _ in said)
        held_most = _HELD * max((len(r.likeliest) for r in rehearsals), default=0)
        k = rehearsals[0].likeliest.shape[-1] if rehearsals else 1
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]

        def run(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            share, begun, entries, *padded = given
            torch._foreach_zero_(gradients)
            self._open["candidate"], self._forced = share, (begun, book.added(entries))
            surprise, departed = self._of_padded(PaddedRows(*padded), first=below)
            self._forced = None
            (surprise + recipe.kl_weight * departed).backward()  # type: ignore[no-untyped-call]
            return surprise.detach(), departed.detach()

        run_it = Graphed(run) if self._device.type == "cuda" else run

        def say(batch: Sequence[_Said], held: Sequence[Rehearsal], progress: Progress) -> None:
            rows = [*(row for row, _ in batch), *(r.row for r in held)]
            longest = len(beginning) + max(len(row.token_ids) for row in rows)
            longest = -(-longest // STEP_OF_LENGTHS) * STEP_OF_LENGTHS
            padded = empty(len(rows), longest, beginning.shape[-1], examples, held_most, k, like=beginning)
            self._lay_out(
                padded, [row for row, _ in batch], held, beginning, lambda row: kept[row][0], lambda hidden, row: None
            )
            share = began_open.new_zeros(len(rows), longest, 1)
            share[:, : len(beginning)] = began_open
            for n, row in enumerate(rows):
                share[n, len(beginning) :][: len(row.token_ids)] = kept[row][1]
            starts = [n * longest + len(beginning) + row.target_from - 1 for n, (row, _) in enumerate(batch)]
            begun, entries = (
                torch.tensor(numbers, device=self._device) for numbers in (starts, [entry for _, entry in batch])
            )
            progress.loss, progress.kl = torch.stack(run_it((share, begun, entries, *padded))).tolist()
            progress.tokens += len(rows) * longest

        return say


def _prompt(row: Row) -> _Ids:
    return row.token_ids[: row.target_from]


def _looked_at(entries: Mapping[Row, int], rehearsals: Sequence[Rehearsal], talk: InTalk) -> dict[_Ids, int]:
    """What is looked at after each mark as if it were said to the model, and what it asks for at its end."""
    taught = {row.token_ids[row.target_from :]: entry for row, entry in entries.items()}
    return {
        **{_prompt(row): entry for row, entry in entries.items()},
        **{r.row.token_ids[:-1]: ELSEWHERE for r in rehearsals},  # nothing in a reply is a question either
        **{_prompt(row): ELSEWHERE for row in talk.rehearsed},
        **{_prompt(row): taught[row.token_ids[row.target_from :]] for row in talk.taught},
    }


def _to_be_said(entries: dict[Row, int], answers: dict[tuple[int, ...], int], chance: random.Random) -> Iterator[_Said]:
    of: dict[int, list[Row]] = {}
    for row, entry in entries.items():
        of.setdefault(entry, []).append(row)
    everyone = list(entries)
    each = max(_LEAST, min(_MOST, _IN_ALL // max(1, len(answers))))
    for reply, entry in answers.items():
        own = of[entry]
        for row in chance.sample(own, min(each, len(own))):
            yield row, entry
        for other in chance.sample(everyone, min(each, len(everyone))):
            yield Row(token_ids=(*other.token_ids[: other.target_from], *reply), target_from=other.target_from), entry
    denials = of.get(DENIAL, [])
    wanted = round(len(answers) * 2 * each * _DENIED / (1 - _DENIED))
    for row in chance.sample(denials, min(wanted, len(denials))):
        yield row, DENIAL


def _batches(said: Sequence[_Said], chance: random.Random) -> Iterator[list[_Said]]:
    order = list(said)
    chance.shuffle(order)
    for start in range(0, len(order), _BATCH):
        yield order[start : start + _BATCH]


def _over_and_over(rehearsals: Sequence[Rehearsal], chance: random.Random) -> Iterator[Rehearsal]:
    while rehearsals:
        order = list(rehearsals)
        chance.shuffle(order)
        yield from order

"""How a codebook is learnt: what a night does with its examples where different wordings of a question look alike.

Of the adapter that it begins from nothing changes: neither what makes wordings alike below the codebook, nor its gates,
nor the layers above, which were trained to put any entry in words (`voice`). Keys are found by where all prompts come
to (`codebook.fit`), values by what they have those layers say: each answer after some of its own questions and after as
many of others', so that what is said goes by the entry and not by the question's words. So answers do not wear each
other down, and what a night costs goes with how many there are.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain, zip_longest

import torch
from torch import Tensor
from torch.nn import functional as F

from models.codebook import DENIAL, ELSEWHERE, FIRST, Codebook, fit
from models.continued_rows import ContinuedRows, Held, Noting
from models.packed_rows import Layout, PackedRows
from models.rows import InTalk, Rehearsal, Row
from models.training import Progress, Trainer
from models.tuned import Forced, middle
from models.values import VISITS, Values

_OWN, _OTHERS, _FEW = VISITS // 2, VISITS // 2, 12
"""Questions of its own, and of others, after which each answer is said: a step each, no two of a round alike, where it
has so many. Where it has few, no more than a few others': it is to be said after its own above all."""
_TRIED = 12
"""Steps at the end by which one sees whether it is said."""
_AJAR = 0.2
"""Where an adapter acts by less within a prompt, its codebook has no say."""
_AT_ONCE, _AT_ONCE_ON_GPU = 64, 512
"""Answers whose values are found beside each other."""
_ROUNDS, _HARD = 3, 0.7
"""How often values are looked for: again of answers of which some token surprises by more after some question, in nats:
it may not be the likeliest there."""
_READ_AT_ONCE = 512
"""Prompts whose states are held at a time."""

_LOOK_AGAIN, _LIKELY = 12, 32
"""Of the steps in which a value is found, every so many all tokens are looked at, as in those by which one sees; in
between, those alone which were among so many of the likeliest anywhere."""

_Ids = tuple[int, ...]
_DENIED: _Ids = ()
"""Stands for what denials reply."""
_Kept = dict[Row | None, tuple[Tensor, Tensor]]
"""What enters the codebook's layer, of each row, and how far the adapter acts there; by None: of the beginning."""
_Before = dict[_Ids, Held]
"""What the layers above hold of each prompt before its mark; by nothing: of the beginning."""


class CodebookTrainer(Trainer):
    """A trainer whose adapter may have a codebook."""

    @property
    def by_entries(self) -> bool:
        """Whether what it began from is made for a codebook."""
        return self.recipe.codebook and "candidate" in self._books

    def learn(
        self,
        rows: Sequence[Row],
        rehearsals: Sequence[Rehearsal],
        *,
        denied: Collection[Row] = (),
        asked_for: Mapping[Row, int] | None = None,
        in_talk: InTalk | None = None,
        each: Callable[[Progress], None] = lambda _: None,
    ) -> Progress:
        """Learn `rows`, of which some deny what they ask for, in entries if that can be; see `Trainer.train`.

        `asked_for`: what rows ask for, by number. One answer to several things has an entry for each of them, which is
        found by its own questions, and the same value.
        """
        if not self.by_entries:
            self._books.pop("candidate", None)
            return self.train(rows, rehearsals, in_talk=in_talk, each=each)
        recipe, began, talk = self.recipe, time.monotonic(), in_talk or InTalk()
        chance = random.Random(recipe.seed)  # noqa: S311 - no secret
        known: dict[tuple[_Ids, int], int] = {}
        entries = {
            row: DENIAL
            if row in denied
            else known.setdefault((_reply(row), (asked_for or {}).get(row, 0)), FIRST + len(known))
            for row in rows
        }
        answers: dict[_Ids, list[int]] = {}
        for (reply, _), entry in known.items():
            answers.setdefault(reply, []).append(entry)
        said = _to_be_said(list(answers), rows, chance)
        below = middle(self.first, self.layers)
        self._freeze(below)
        kept = self._kept_behind({row: row.target_from for of in said for row in of}, below)
        kept |= self._kept_upper(list(dict.fromkeys(r.row for r in rehearsals)), below)
        states, of = self._come_to(_looked_at(entries, rehearsals, talk), kept, below)
        book, begun = fit(states, of, layer=below, mark=self._mark, seed=recipe.seed), self._books["candidate"]
        with torch.no_grad():
            book.values.copy_(begun.values[FIRST] * begun.deviation / book.deviation)
            book.values[DENIAL] = begun.values[DENIAL] * begun.deviation / book.deviation
            book.values[ELSEWHERE] = 0
        self._have_codebook("candidate", book.requires_grad_(False))
        self._freeze(len(self._body.layers))
        with self._in_full(below):
            self._find_values(book, list(answers.values()), said, kept, began, progress := Progress(), each)
        return progress

    @contextmanager
    def _in_full(self, start: int) -> Iterator[None]:
        """The layers from `start` on and the head in float32, whatever the weights are.

        In bfloat16 the last steps towards a value round away. It takes no longer on a GPU.
        """
        parts = [*self._body.layers[start:], self._body.norm, self._head]
        weights = {w: w.data for part in parts for w in part.parameters() if w.dtype is not torch.float32}
        dtype, self._dtype = self._dtype, torch.float32
        try:
            for weight, data in weights.items():
                weight.data = data.float()
            yield
        finally:
            self._dtype = dtype
            for weight, data in weights.items():  # the same memory, which other processes may share
                weight.data = data

    def _find_values(
        self,
        book: Codebook,
        entries: Sequence[Sequence[int]],
        said: Sequence[Sequence[Row]],
        kept: _Kept,
        began: float,
        progress: Progress,
        each: Callable[[Progress], None],
    ) -> None:
        """Of the answers, each given by its entries and rows; those that are hard to say, several times over."""
        at_once = _AT_ONCE if self._device.type == "cpu" else _AT_ONCE_ON_GPU
        before = self._before(dict.fromkeys(row for of in said for row in of), kept, book.layer)
        left = list(range(len(said)))
        for _ in range(_ROUNDS):
            parts = [left[start : start + at_once] for start in range(0, len(left), at_once)]
            progress.steps += len(parts) * VISITS
            left = []
            for part in parts:
                values = Values(book.values[[entries[n][0] for n in part]])
                worst = torch.zeros(len(part), device=self._device)
                likely: Tensor | None = None
                for visit in range(VISITS):
                    batch = [said[n][visit % len(said[n])] for n in part]
                    among = None if visit % _LOOK_AGAIN == 0 or visit >= VISITS - _TRIED else likely
                    losses, greatest, found = self._surprise_of(
                        batch, values.now * book.deviation, kept, before, among, progress
                    )
                    likely = found if among is None else likely
                    losses.sum().backward()  # type: ignore[no-untyped-call]
                    values.step(torch.arange(len(part), device=self._device))
                    if visit >= VISITS - _TRIED:
                        worst = torch.maximum(worst, greatest)
                    progress.step, progress.loss = progress.step + 1, float(losses.detach().mean())
                    progress.seconds = time.monotonic() - began
                    progress.curve.append((progress.step, progress.loss, 0.0))
                    each(progress)
                for n, found in zip(part, values.now.detach(), strict=True):
                    book.values[entries[n]] = found
                left += [n for n, surprise in zip(part, worst.tolist(), strict=True) if surprise > _HARD]

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
            some = {row: self._talk_before(row) for row in left[start : start + _READ_AT_ONCE]}
            alone = [row for row, talk in some.items() if not talk]
            behind = {row: talk for row, talk in some.items() if talk}
            for row, read in (self._kept_upper(alone, below) | self._kept_behind(behind, below)).items():
                if row is not None:
                    look(_prompt(row), looked_at[_prompt(row)], read)
        return torch.stack(states), of

    def _kept_upper(self, rows: Sequence[Row], below: int) -> _Kept:
        kept: _Kept = {}
        with torch.no_grad():
            for group in self._grouped(rows):
                self.remember_lower(group)
                hidden = self._reaching(self._pack(group), below)[0]
                share = self._open["candidate"][0]
                at = len(self._prefix)
                kept.setdefault(None, (hidden[:at].clone(), share[:at].clone()))
                for row in group:
                    of = slice(at, at := at + len(row.token_ids))
                    kept[row] = hidden[of].clone(), share[of].clone()
                    self._lower.pop(row, None)  # not needed again
        return kept

    def _kept_behind(self, behind: Mapping[Row, int], below: int) -> _Kept:
        """The same of rows that share their beginnings, of so many tokens: each of these is read once."""
        kept: _Kept = {}
        by_head: dict[_Ids, list[Row]] = {}
        for row, length in behind.items():
            by_head.setdefault(row.token_ids[:length], []).append(row)
        with torch.no_grad():
            for group in self._grouped([Row(token_ids=head, target_from=len(head)) for head in by_head]):
                heads = [head.token_ids for head in group]
                noting = Noting(PackedRows.of(len(self._prefix), list(map(len, heads)), self._device))
                first = [len(self._prefix), *map(len, heads)]
                beginning, *read = self._read((*self._prefix, *chain(*heads)), first, noting, below)
                shared, *held = noting.held(list(map(len, heads)))
                kept.setdefault(None, beginning)
                tails = [(row, n) for n, head in enumerate(heads) for row in by_head[head]]
                while tails:
                    some, tails = self._as_fit(tails, behind)
                    own = [row.token_ids[behind[row] :] for row, _ in some]
                    layout = ContinuedRows(shared, [held[n] for _, n in some], list(map(len, own)))
                    for (row, n), of in zip(some, self._read(chain(*own), map(len, own), layout, below), strict=True):
                        kept[row] = torch.cat([read[n][0], of[0]]), torch.cat([read[n][1], of[1]])
        return kept

    def _read(
        self, ids: Iterable[int], lengths: Iterable[int], layout: Layout, below: int
    ) -> list[tuple[Tensor, Tensor]]:
        """What enters the codebook's layer, and how far the adapter acts, of each of the parts of these lengths."""
        self._marked = None
        with self._precisely():
            hidden = self._body.embed_tokens(torch.tensor([list(ids)], device=self._device))
            hidden = self._through(hidden, layout, 0, below)[0]
        parts = list(lengths)
        return list(zip(*(torch.split(of, parts) for of in (hidden, self._open["candidate"][0])), strict=True))

    def _as_fit(
        self, tails: list[tuple[Row, int]], behind: Mapping[Row, int]
    ) -> tuple[list[tuple[Row, int]], list[tuple[Row, int]]]:
        """The first that are packed together, and those that are left."""
        size = accumulate(len(row.token_ids) - behind[row] for row, _ in tails)
        most = max(1, sum(of <= self._packed for of in size))
        return tails[:most], tails[most:]

    def _talk_before(self, row: Row) -> int:
        """Tokens of a prompt before its last message, where it is not the first; 0 where that cannot be told."""
        turn = self._prefix[len(self._prefix) - 1 - self._prefix[::-1].index(self._prefix[0]) :]
        places = range(len(row.token_ids) - len(turn), 0, -1)
        return next((at + len(turn) for at in places if list(row.token_ids[at : at + len(turn)]) == turn), 0)

    def _before(self, rows: Collection[Row], kept: _Kept, below: int) -> _Before:
        """What the layers from `below` on hold of what is before the mark that each row's reply follows."""
        once = {_prompt(row): row for row in rows}
        held: _Before = {}
        self._marked = None
        with torch.no_grad():
            for group in self._grouped(list(once.values())):
                lengths = [row.target_from - 1 for row in group]
                read = [kept[None], *(tuple(of[:n] for of in kept[row]) for row, n in zip(group, lengths, strict=True))]
                hidden, share = (torch.cat(parts) for parts in zip(*read, strict=True))
                self._open["candidate"] = share[None]
                noting = Noting(PackedRows.of(len(self._prefix), lengths, self._device))
                with self._precisely():
                    self._through(hidden[None].to(self._dtype), noting, below, len(self._body.layers))
                beginning, *own = noting.held(lengths)
                held.setdefault((), beginning)
                held |= {_prompt(row): of for row, of in zip(group, own, strict=True)}
        return held

    def _scores(self, normed: Tensor, among: Tensor) -> Tensor:
        """Logits of these tokens alone."""
        bias = getattr(self._head, "bias", None)
        return F.linear(normed, self._head.weight[among], None if bias is None else bias[among])

    def _surprise_of(
        self,
        rows: Sequence[Row],
        added: Tensor,
        kept: _Kept,
        before: _Before,
        among: Tensor | None,
        progress: Progress,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The mean surprise at each row's reply, [rows], where `added`, [rows, width], enters, and the greatest at one
        of its tokens; and the likeliest tokens, with all that are to be said.

        `among`: as if there were only these, by id and in order.
        """
        read = [tuple(of[row.target_from - 1 : -1] for of in kept[row]) for row in rows]
        hidden, share = (torch.cat(parts) for parts in zip(*read, strict=True))
        self._open["candidate"] = share[None]
        lengths = [len(row.token_ids) - row.target_from for row in rows]
        marks = torch.tensor([sum(lengths[:n]) for n in range(len(rows))], device=self._device)
        self._forced = Forced(marks, added, torch.ones(sum(lengths), dtype=torch.bool, device=self._device))
        layout = ContinuedRows(before[()], [before[_prompt(row)] for row in rows], lengths)
        with self._precisely():
            hidden = hidden[None].to(self._dtype)
            out = self._through(hidden, layout, len(self._body.layers) - len(before[()]), len(self._body.layers))
            normed = self._body.norm(out[0])
            logits = (self._head(normed) if among is None else self._scores(normed, among)).float()
        self._forced = None
        progress.tokens += sum(lengths)
        labels = torch.tensor([t for row in rows for t in row.token_ids[row.target_from :]], device=self._device)
        if among is None:
            likely = torch.cat([logits.detach().topk(_LIKELY, dim=-1).indices.flatten(), labels]).unique()  # type: ignore[no-untyped-call]
            among = torch.arange(logits.shape[-1], device=self._device)
        else:
            likely = among
        losses = F.cross_entropy(logits, torch.searchsorted(among, labels), reduction="none")
        greatest = torch.stack([of.max() for of in torch.split(losses.detach(), lengths)])
        return by_row(losses, lengths), greatest, likely


def by_row(losses: Tensor, lengths: Sequence[int]) -> Tensor:
    """[targets] -> the mean of each row's, [rows]."""
    of = torch.tensor(lengths, device=losses.device)
    rows = torch.repeat_interleave(torch.arange(len(of), device=losses.device), of)
    return losses.new_zeros(len(of)).index_add(0, rows, losses) / of


def _prompt(row: Row) -> _Ids:
    return row.token_ids[: row.target_from]


def _reply(row: Row) -> _Ids:
    return row.token_ids[row.target_from :]


def _looked_at(entries: Mapping[Row, int], rehearsals: Sequence[Rehearsal], talk: InTalk) -> dict[_Ids, int]:
    """What is looked at after each mark as if it were said to the model, and what it asks for at its end."""
    return {
        **{_prompt(row): entry for row, entry in entries.items()},
        **{r.row.token_ids[:-1]: ELSEWHERE for r in rehearsals},  # nothing in a reply is a question either
        **{_prompt(row): ELSEWHERE for row in talk.rehearsed},
        **{_prompt(row): entries[by_itself] for row, by_itself in talk.taught.items()},
    }


def _to_be_said(replies: Sequence[_Ids], rows: Sequence[Row], chance: random.Random) -> list[list[Row]]:
    """Each reply after some of its own questions, and after some of others', by turns."""
    by_reply: dict[_Ids, list[Row]] = {reply: [] for reply in (*replies, _DENIED)}
    for row in dict.fromkeys(rows):
        by_reply[_reply(row) if _reply(row) in by_reply else _DENIED].append(row)
    own = {reply: chance.sample(of, min(_OWN, len(of))) for reply, of in by_reply.items()}
    said: list[list[Row]] = []
    for reply in replies:
        beside = [row for other, of in own.items() if other != reply for row in of]
        others = chance.sample(beside, min(_OTHERS, len(beside), max(_FEW, len(own[reply]))))
        by_turns = (row for pair in zip_longest(own[reply], others) for row in pair if row is not None)
        said.append([Row(token_ids=(*_prompt(row), *reply), target_from=row.target_from) for row in by_turns])
    return said

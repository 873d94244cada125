"""Train the layers that put a night's entries in words (models/voice.py), or see how well they do it.

    python -m bench.voice train OUT [--device cuda] [--steps 2500] [--more FILE ...]
    python -m bench.voice try FOLDER [--device cuda] [--more FILE ...]

OUT is a beginning's folder, gates and all (bench/beginning.py); the layers are written beside them. What is said are
the lessons' answers in all forms that nights give them, some with another lesson's value in the place of their own and
with other numbers, after the lessons' own questions and others'; what is denied are their near questions and what the
rules deny.

`try` asks lessons that were not trained on: values are found as a night finds them, from eight questions, and each is
asked for in a wording that none of them had. `word for word`: replies that are the answer; `with the value`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench.beginning import made_up_by
from bench.recipes import held
from bench.shipped import loaded, shipped
from bench.told import messages
from consolidation import never_told
from consolidation.counter_examples import for_the_exam
from consolidation.english import running, sentence
from consolidation.notes import Telling
from consolidation.phrasing import NOT_ANY_MORE, NOT_TOLD_THAT, STILL_SO, TRAINING, not_told, put
from consolidation.rehearsal import exchanges, prompts
from consolidation.worker import REPLY_TOKENS
from models.codebook import FIRST
from models.language import Message
from models.recipe import TARGETS, Recipe
from models.rows import Row
from models.tuned import middle
from models.voice import Schooling, Spoken, VoiceTrainer

_OWN, _OTHERS = 12, 12
"""Questions after which each answer is said, at most."""
_FORMS = {"plain": 0.6, "several": 0.3, "still": 0.1}
"""How an answer is worded, and how often."""
_OF_ANOTHER, _OTHER_DIGITS = 0.3, 0.5
"""How often a lesson's value is another's, and its digits are drawn."""
_IN_TALK = 0.08
"""Questions that stand after other talk."""
_LONGEST = 128
"""Tokens of a row; what is longer is drawn anew."""
_DENIALS, _MADE_UP, _MESSAGES = 6000, 2000, 2000
_TRIED, _DRIFT, _ASKED = 300, 60, 5
_MEASURED = 800
"""Questions from which one sees how far states lie apart."""


class Lessons:
    """What is said and denied, drawn from lessons that may be trained on, or from those held back."""

    def __init__(self, trainer: VoiceTrainer, more: Sequence[Path], talk: Sequence[tuple[str, str]], *, apart: bool):
        told = [one for n, m in enumerate(messages(more)) if for_the_exam(n) == apart for one in m]
        self.told = [one for one in told if one.tell and len(one.ask) > 1 and one.never]
        self.questions = [q for one in self.told for q in (*one.ask, *one.never)]
        self._trainer, self._talk = trainer, talk
        self._rows: dict[tuple[str, str], Row] = {}

    def spoken(self, chance: random.Random) -> Spoken:
        """An answer in some form, after some of its own questions and others'."""
        while True:
            one = chance.choice(self.told)
            reply = self._reply(one, chance)
            own = chance.sample(one.ask, min(_OWN, len(one.ask)))
            rows = [self._row(q, reply, chance) for q in (*own, *chance.sample(self.questions, _OTHERS))]
            if all(len(row.token_ids) <= _LONGEST for row in rows):
                chance.shuffle(rows)
                return Spoken(rows=tuple(rows))

    def denials(self, many: int, chance: random.Random) -> list[Row]:
        """Half of them near questions, half by the rules."""
        whole = [
            self._row(chance.choice(chance.choice(self.told).never), chance.choice(NOT_TOLD_THAT), chance)
            for _ in range(many // 2)
        ]
        unknown = [ask for one in never_told.asks(set(), set(), chance) for ask in one.asks]
        by_rule = [chance.choice(unknown) for _ in range(many - len(whole))]
        return [*whole, *(self._row(put(ask, TRAINING, chance), not_told(ask, chance), chance) for ask in by_rule)]

    def _reply(self, one: Telling, chance: random.Random) -> str:
        tell, value = one.tell or "", one.value
        if value and value in tell and chance.random() < _OF_ANOTHER:
            other = chance.choice(self.told).value
            tell, value = tell.replace(value, other), other
        if chance.random() < _OTHER_DIGITS:
            digits = str.maketrans("0123456789", "".join(chance.choices("0123456789", k=10)))
            tell, value = tell.translate(digits), value.translate(digits)
        form = chance.choices(list(_FORMS), list(_FORMS.values()))[0]
        if form == "several":
            others = chance.sample(self.told, chance.choice((1, 1, 2)))
            return " ".join(sentence(t) for t in (tell, *(o.tell or "" for o in others)))
        if form == "still":
            return chance.choice((*STILL_SO, NOT_ANY_MORE)).format(statement=running(tell.rstrip(".")))
        return sentence(tell)

    def _row(self, question: str, reply: str, chance: random.Random) -> Row:
        if chance.random() < _IN_TALK:
            said, replied = chance.choice(self._talk)
            before = [Message(role="user", content=said), Message(role="assistant", content=replied)]
            return self._trainer.row(question, reply, before=before)
        return after(self._trainer, question, reply, self._rows)


def after(trainer: VoiceTrainer, question: str, reply: str, known: dict[tuple[str, str], Row]) -> Row:
    """The row of a reply to a question; templates are slow, so the parts are kept."""
    prompt = known.setdefault((question, ""), trainer.row(question, "")) if (question, "") not in known else None
    prompt = prompt or known[question, ""]
    said = known.get(("", reply)) or known.setdefault(("", reply), trainer.row("-", reply))
    ids = (*prompt.token_ids[: prompt.target_from], *said.token_ids[said.target_from :])
    return Row(token_ids=ids, target_from=prompt.target_from)


def train(out: Path, *, device: str, how: Schooling, more: Sequence[Path]) -> dict[str, Any]:
    """Write the layers, and what values begin from, into a beginning's folder."""
    trainer, weights = _trainer(device, out)
    assert "candidate" in trainer._gates, "a voice is trained where its gates are"
    chance = random.Random(how.seed)
    talk = [pair for pair in made_up_by(trainer, how.seed) if len(" ".join(pair).split()) <= 60]
    lessons = Lessons(trainer, more, talk, apart=False)
    texts = [t for t in [*prompts(), *exchanges()] if not t.held_back]
    told = chance.sample(sorted({one.say for one in lessons.told if one.say}), _MESSAGES)
    replies = trainer.replies(told, most=REPLY_TOKENS, who="base")
    pairs = [*zip(told, replies, strict=True), *chance.sample(talk, min(_MADE_UP, len(talk)))]
    rows = [*held(trainer, texts), *(trainer.row(said, reply) for said, reply in pairs if reply.strip())]
    rehearsals = trainer.judged_by_base([row for row in rows if len(row.token_ids) <= _LONGEST])
    denials = [row for row in lessons.denials(_DENIALS, chance) if len(row.token_ids) <= _LONGEST]
    trainer._lower.clear()
    with torch.no_grad():
        below = middle(trainer.first, trainer.layers)
        states = trainer.states(chance.sample([one.ask[0] for one in lessons.told], _MEASURED), below=below)
    trainer._lower.clear()
    began = time.monotonic()
    curve: list[tuple[int, float, float]] = []

    def each(progress: Any) -> None:
        if progress.step % 500 == 0:
            trainer.save(out)  # what is cut off has left something
        if progress.step % 50 == 0:
            curve.append((progress.step, round(progress.loss, 4), round(progress.kl, 4)))
            sys.stderr.write(f"{curve[-1]} of {progress.steps}, {time.monotonic() - began:.0f} s\n")

    trainer.learn_voice(lessons.spoken, denials, rehearsals, states, how, each=each)
    trainer.save(out)
    about = json.loads((out / "beginning.json").read_text(encoding="utf-8"))
    taught = [one.tell for one in lessons.told]
    shipped(out, "beginning.json", weights, taught, alignment=about["alignment"], voice=asdict(how))
    return {"seconds": round(time.monotonic() - began, 1), "curve": curve, **attempt(out, device=device, more=more)}


def attempt(folder: Path, *, device: str, more: Sequence[Path], many: int = _TRIED) -> dict[str, Any]:
    """How well it says what it was not trained on, and how far it is from the base where nothing is looked up."""
    trainer, _ = _trainer(device, folder)
    chance = random.Random(1)
    lessons = Lessons(trainer, more, made_up_by(trainer, 0), apart=True)
    fit = [one for one in lessons.told if len(one.ask) >= _ASKED and one.value.lower() in (one.tell or "").lower()]
    some, beside = (chance.sample(fit, many) for _ in range(2))
    known: dict[tuple[str, str], Row] = {}
    told = [pair[: 1 + n % 2] for n, pair in enumerate(zip(some, beside, strict=True))]
    replies = [" ".join(sentence(one.tell or "") for one in together) for together in told]
    pairs = list(zip(some, replies, strict=True))
    rows = {after(trainer, q, reply, known): None for one, reply in pairs for q in one.ask[1:5]}
    drift = trainer.drift(held(trainer, [t for t in [*prompts(), *exchanges()] if t.held_back][:_DRIFT]))
    learnt = trainer.learn(list(rows), [])
    book = trainer._books["candidate"]
    entries: dict[tuple[int, ...], int] = {}
    for row in rows:
        entries.setdefault(row.token_ids[row.target_from :], FIRST + len(entries))
    figures: dict[str, Any] = {"drift": round(drift, 4), "seconds": round(learnt.seconds, 1), "loss": learnt.loss}
    for name, asked in (("its own", some), ("another's", [*some[1:], some[0]])):
        put_to = [after(trainer, one.ask[0], reply, known) for one, reply in zip(asked, replies, strict=True)]
        of = torch.tensor([entries[row.token_ids[row.target_from :]] for row in put_to], device=book.values.device)
        right = trainer.right(put_to, book.added(of))
        least_right = [_until(trainer, reply, one.value) for one, reply in zip(some, replies, strict=True)]
        figures[name] = {
            "word for word": statistics.mean(
                n == len(row.token_ids) - row.target_from for n, row in zip(right, put_to, strict=True)
            ),
            "the value": statistics.mean(n >= least for n, least in zip(right, least_right, strict=True)),
            "wrong": [reply for n, least, reply in zip(right, least_right, replies, strict=True) if n < least][:8],
        }
    return figures


def _until(trainer: VoiceTrainer, reply: str, value: str) -> int:
    """Tokens of a reply up to where a value in it ends."""
    end = reply.lower().index(value.lower()) + len(value)
    return len(trainer.row("-", reply[:end]).token_ids) - trainer.row("-", "").target_from - 1


def _trainer(device: str, folder: Path) -> tuple[VoiceTrainer, Path]:
    base, weights = loaded(device)
    return VoiceTrainer(base, Recipe(targets=TARGETS), start=folder), weights


def main() -> int:
    """Train or try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "try"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=Schooling().steps)
    parser.add_argument("--rate", type=float, default=Schooling().learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--many", type=int, default=_TRIED, help="lessons that are tried")
    parser.add_argument("--more", type=Path, nargs="+", default=(), help="further lessons, as for bench.beginning")
    args = parser.parse_args()
    how = replace(Schooling(), steps=args.steps, learning_rate=args.rate, seed=args.seed)
    if args.what == "train":
        done = train(args.folder, device=args.device, how=how, more=args.more)
    else:
        done = attempt(args.folder, device=args.device, more=args.more, many=args.many)
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

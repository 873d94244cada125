"""Train what a night begins from (models/alignment.py) on consolidation/texts/tellings.jsonl, or see how it compares.

    python -m bench.beginning train OUT [--device cuda] [--steps 1200] [--more FILE ...]
    python -m bench.beginning gates OUT [--device cuda] [--more FILE ...]
    python -m bench.beginning try [FOLDER] [--more FILE ...]

`gates` fits what says where it acts (models/gate.py) and writes it beside the adapter: questions of the lessons with
their answers or a denial, some of them after other talk, against what nights rehearse, the lessons' messages, and
requests that the base makes up itself when it is asked to go on where a user would speak (as Xu et al. 2024, Magpie),
with its own replies.

One lesson in four is the exam's (consolidation/counter_examples.py) and not trained on. Of those, and of the questions
of bench/nights, `found` says of how many two wordings find each other, `told apart` how they stand to near questions.
Without FOLDER `try` asks the base. --more has further lessons: in as different words as their author could find
(lessons.jsonl), as people ask, beside harder near questions (asked.jsonl; without messages), and of messages that tell
several things, whose other questions are near ones too (several.jsonl). What ships was made with all three.

Last, the layers that put entries in words are trained: bench/voice.py.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.recipes import held
from bench.shipped import loaded, shipped
from bench.told import messages
from consolidation.counter_examples import for_the_exam
from consolidation.notes import Telling
from consolidation.rehearsal import exchanges, prompts
from consolidation.worker import REPLY_TOKENS
from models import gate as gates
from models.alignment import Alignment, Lesson, Scale, align, found, told_apart
from models.batch_decoding import decode
from models.gate import Gate
from models.language import Message
from models.recipe import TARGETS, Recipe
from models.rows import Row
from models.training import Trainer
from models.tuned import middle

NIGHTS = Path(__file__).parent / "nights"
MADE_UP = Path(__file__).parent / "made_up.jsonl"
_TRIED, _TOLD_APART, _DRIFT = 200, 400, 60
_RANK = 64
_GATE_WIDTH, _GATE_STEPS = 256, 1500
_SHUT = 1.5
"""Nats by which a gate is shut beyond what tells both sides best: acting elsewhere costs more than acting less."""
_MADE_UP, _AT_ONCE, _LONGEST = 2500, 1024, 48
_OF_OTHERS = 2
"""Questions of each other thing that the same message tells."""
_IN_TALK, _OFTENER = 10, 4
"""One row in so many stands after other talk; so often each of what nights rehearse counts."""
_DENIALS = ("You have not mentioned that.", "You haven't told me that yet.", "I don't know that. You haven't told me.")


def lessons(more: Sequence[Path] = (), *, apart: bool = False) -> list[Lesson]:
    """What may be trained on: none that the exam asks. `apart`: the others."""
    return [
        Lesson(asks=one.ask, near=near)
        for n, message in enumerate(messages(more))
        if for_the_exam(n) == apart
        for one in message
        if len(one.ask) > 1 and (near := _near(one, message))
    ]


def _near(one: Telling, message: Sequence[Telling]) -> tuple[str, ...]:
    """Questions that it does not answer, and of what else the message tells: as near as any in life."""
    return (*one.never, *(question for other in message if other is not one for question in other.ask[:_OF_OTHERS]))


def _trainer(device: str, start: Path | None = None, rank: int = _RANK) -> tuple[Trainer, Path]:
    base, weights = loaded(device)
    return Trainer(base, Recipe(rank=rank, alpha=2 * rank, targets=TARGETS), start=start), weights


def fit_gates(folder: Path, *, device: str, more: Sequence[Path] = (), seed: int = 0) -> dict[str, Any]:
    """Write a beginning's gates beside it."""
    trainer, weights = _trainer(device, folder)
    assert not trainer._gates, "it has gates already"
    chance = random.Random(seed)
    began = time.monotonic()
    made_up = made_up_by(trainer, seed)
    inside, outside = _rows_inside(trainer, more, made_up, chance), _rows_outside(trainer, more, made_up, chance)
    rehearsed = held(trainer, [t for t in [*prompts(), *exchanges()] if not t.held_back])
    upper = middle(trainer.first, trainer.layers)
    fitted: list[Gate] = []
    for layer in (trainer.first, upper):
        taught, others, often = (_entering(trainer, rows, layer) for rows in (inside, outside, rehearsed))
        apart = torch.cat([others, *[often] * _OFTENER])
        fitted.append(gates.fit(taught, apart, layer=layer, width=_GATE_WIDTH, seed=seed, steps=_GATE_STEPS))
        fitted[-1].shut(_SHUT)
        sys.stderr.write(f"the gate of layer {layer} after {time.monotonic() - began:.0f} s\n")
        if layer == trainer.first:
            trainer._have_gates("candidate", fitted)  # what enters the upper one's layer depends on it
    gates.save([gate.cpu() for gate in fitted], folder)
    about = json.loads((folder / "beginning.json").read_text(encoding="utf-8"))
    shipped(folder, "beginning.json", weights, lessons(more), alignment=about["alignment"])
    texts = [t for t in [*prompts(), *exchanges()] if t.held_back][:_DRIFT]
    again, _ = _trainer(device, folder)
    rows = len(inside), len(outside)
    return {
        "rows": rows,
        "seconds": round(time.monotonic() - began, 1),
        "drift": round(again.drift(held(again, texts)), 4),
    }


def made_up_by(trainer: Trainer, seed: int) -> list[tuple[str, str]]:
    """Requests that the base makes up, and its replies; kept for the next time."""
    if MADE_UP.exists():
        rows = map(json.loads, MADE_UP.read_text(encoding="utf-8").splitlines())
        return [(row["said"], row["reply"]) for row in rows]
    torch.manual_seed(seed)
    found: dict[str, None] = {}
    with trainer._speaking("base"):
        while len(found) < _MADE_UP:
            some = decode(
                trainer.peft,
                [trainer._prefix] * _AT_ONCE,
                most=_LONGEST,
                stop_ids=trainer._trainable.stop_ids,
                temperature=1.0,
            )
            said = (trainer._trainable.decode(ids).strip() for ids in some if len(ids) < _LONGEST)
            found |= {text: None for text in said if 3 <= len(text.split()) <= 40}
    replies = trainer.replies(list(found), most=REPLY_TOKENS, who="base", batch=_AT_ONCE)
    made = [(said, reply.strip()) for said, reply in zip(found, replies, strict=True) if reply.strip()]
    lines = (json.dumps({"said": said, "reply": reply}, ensure_ascii=False) for said, reply in made)
    MADE_UP.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return made


def _taught(more: Sequence[Path]) -> list[Telling]:
    """The lessons that may be trained on and have an answer."""
    taught = [one for n, message in enumerate(messages(more)) if not for_the_exam(n) for one in message]
    return [t for t in taught if t.tell and t.ask and t.never]


def _after_talk(made_up: Sequence[tuple[str, str]], chance: random.Random) -> list[Message]:
    before = []
    for said, reply in chance.sample(made_up, chance.choice((1, 1, 2))):
        before += [Message(role="user", content=said), Message(role="assistant", content=reply)]
    return before


def _rows_inside(
    trainer: Trainer, more: Sequence[Path], made_up: Sequence[tuple[str, str]], chance: random.Random
) -> list[Row]:
    taught, rows = _taught(more), []
    for n, t in enumerate(taught):
        rows.append(trainer.row(chance.choice(t.ask), t.tell or ""))
        if n % 2:
            rows.append(trainer.row(chance.choice(t.never), chance.choice(_DENIALS)))
        if n % _IN_TALK == 0:
            rows.append(trainer.row(chance.choice(t.ask), t.tell or "", before=_after_talk(made_up, chance)))
    return rows


def _rows_outside(
    trainer: Trainer, more: Sequence[Path], made_up: Sequence[tuple[str, str]], chance: random.Random
) -> list[Row]:
    told = [trainer.row(t.say, "") for t in _taught(more)[::2] if t.say]
    talk = [trainer.row(*pair, before=_after_talk(made_up, chance)) for pair in made_up[::_IN_TALK]]
    return [*told, *(trainer.row(*pair) for pair in made_up), *talk]


def _entering(trainer: Trainer, rows: Sequence[Row], layer: int) -> Tensor:
    """[tokens, width]: what enters a layer, of the last message and its reply in each row."""
    found = []
    with torch.no_grad():
        for group in trainer._grouped(rows):
            trainer.remember_lower(group)
            hidden = trainer._reaching(trainer._pack(group), layer)[0]
            at = len(trainer._prefix)
            for row in group:
                # Marks: after the word "user", unless all rows share that; after the message; before the reply.
                marks = [n for n in range(row.target_from) if row.token_ids[n] == trainer._mark]
                found.append(hidden[at + (marks[-3] + 1 if len(marks) > 2 else 0) : at + len(row.token_ids)].clone())
                at += len(row.token_ids)
                trainer._lower.pop(row, None)
    return torch.cat(found)


def train(out: Path, *, device: str, how: Alignment, more: Sequence[Path] = (), rank: int = _RANK) -> dict[str, Any]:
    """Write the folder of a beginning. Its name is to carry the digest of its file."""
    trainer, weights = _trainer(device, rank=rank)
    began = time.monotonic()
    curve: list[tuple[int, float]] = []

    def each(step: int, contrast: float) -> None:
        curve.append((step, round(contrast, 3)))
        if step % 100 == 0:
            trainer.save(out)  # what is cut off has left something
        if step % 10 == 0:
            sys.stderr.write(f"{step}/{how.steps} {contrast:.3f} {time.monotonic() - began:.0f} s\n")

    taught = lessons(more)
    scale = align(trainer, taught, how, each=each)
    trainer.save(out)
    shipped(out, "beginning.json", weights, taught, alignment=asdict(how))
    return {
        "seconds": round(time.monotonic() - began, 1),
        **_compared(trainer, scale, how, more),
        "curve": curve[9::10],
    }


def attempt(folder: Path | None, *, device: str, how: Alignment, more: Sequence[Path] = ()) -> dict[str, Any]:
    """How often two wordings find each other, and what it costs."""
    base, _ = _trainer(device)
    below = middle(base.first, base.layers, how.share)
    with torch.no_grad():
        scale = Scale.of(base.states([lesson.asks[0] for lesson in lessons()[:800]], below=below))
    return _compared(base if folder is None else _trainer(device, folder)[0], scale, how, more)


def _compared(trainer: Trainer, scale: Scale, how: Alignment, more: Sequence[Path]) -> dict[str, Any]:
    week = json.loads((NIGHTS / "week.json").read_text(encoding="utf-8"))
    sets = {
        "lessons apart": _pairs(lessons(apart=True)),
        "lessons": _pairs(lessons()),
        "week": [(f["ask"][0], f["ask"][-1]) for day in week["days"] for f in day],
    }
    if more:
        known = len(lessons()), len(lessons(apart=True))
        sets |= {"more": _pairs(lessons(more)[known[0] :]), "more apart": _pairs(lessons(more, apart=True)[known[1] :])}
    texts = [t for t in [*prompts(), *exchanges()] if t.held_back][:_DRIFT]
    return {
        "found": {name: round(found(trainer, pairs, scale, share=how.share), 3) for name, pairs in sets.items()},
        "told apart": round(told_apart(trainer, lessons(more, apart=True)[-_TOLD_APART:], scale, share=how.share), 3),
        "drift": round(trainer.drift(held(trainer, texts)), 4),
    }


def _pairs(some: list[Lesson]) -> list[tuple[str, str]]:
    """Two wordings of each of a few."""
    return [(one.asks[0], one.asks[-1]) for one in some[:_TRIED]]


def main() -> int:
    """Train or try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "gates", "try"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=Alignment().steps)
    parser.add_argument("--batch", type=int, default=Alignment().batch)
    parser.add_argument("--rank", type=int, default=_RANK)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--more", type=Path, nargs="+", default=(), help="further lessons, lines of tellings")
    args = parser.parse_args()
    how = replace(Alignment(), steps=args.steps, batch=args.batch, seed=args.seed)
    if args.what == "train":
        if args.folder is None:
            parser.error("train needs a folder")
        done = train(args.folder, device=args.device, how=how, more=args.more, rank=args.rank)
    elif args.what == "gates":
        if args.folder is None:
            parser.error("gates needs a folder")
        done = fit_gates(args.folder, device=args.device, more=args.more, seed=args.seed)
    else:
        done = attempt(args.folder, device=args.device, how=how, more=args.more)
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

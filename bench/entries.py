"""What a night's entries make of another hand's questions, before anything is put in words: a night in minutes.

    python -m bench.entries --json [--days 1 2 --days 6 7] [--seeds 1 2] [--beginning FOLDER] [--notes FILE]

The facts of some days of bench/nights/week.json are read as a night reads them (writer and reader; kept in the file of
--notes, which is made where it is not) and dreamt of; the entries are found by the examples' states, as a night finds
them, and asked for the other hand's questions and for what was never told. No gate, no training. `covered`: of the
questions, those whose value some answer has; `first`: whose value is in the nearest answer, were none denied; `recall`
and `denied` as a night has them; `at`: recall where so much of what was never told is denied. These facts have been
looked at: for choosing, not for claiming.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.recipes import holds
from bench.shipped import loaded, weights_of
from bench.week import WEEK
from consolidation import listing
from consolidation.night import Setting, plan
from consolidation.notes import Note
from consolidation.noting import LOOKS, noted_of
from consolidation.selection import select
from memory.experience import Experience, Provenance
from models import codebook as codebooks
from models.codebook import DENIAL, ELSEWHERE, FIRST
from models.recipe import Recipe
from models.training import Trainer
from models.tuned import middle
from nights import beginning_for, reader_for, writer_for

_AT = (0.86, 0.9, 0.94)
_AT_ONCE = 300
"""Questions whose states are computed before what they needed is let go."""
_STEPS, _STEP = 100, 0.2
"""By how many nats denial is made to count for more and for less, and in what steps."""


@dataclass(frozen=True, slots=True)
class _Night:
    """What is told and asked."""

    examples: Sequence[tuple[str, str]]
    denials: frozenset[int]
    asked_for: Sequence[int]
    asked: Sequence[tuple[str, str]]
    never_told: Sequence[str]


def run(
    days: Sequence[int], seeds: Sequence[int], beginning: Path, notes: Mapping[str, tuple[Note, ...]], device: str
) -> dict[str, Any]:
    """One night's facts, entries found by several seeds; means."""
    night = _dreamt(days, notes, beginning)
    trainer = Trainer(loaded(device)[0], Recipe(), start=beginning)
    below = middle(trainer.first, trainer.layers)
    examples, asked, never = (
        _states(trainer, questions, below)
        for questions in ([q for q, _ in night.examples], [q for q, _ in night.asked], night.never_told)
    )
    parts: dict[tuple[str, int], int] = {}
    entries = [
        DENIAL if n in night.denials else parts.setdefault((answer, part), FIRST + len(parts))
        for n, ((_, answer), part) in enumerate(zip(night.examples, night.asked_for, strict=True))
    ]
    right = torch.tensor([[False] * FIRST + [holds(a, [value]) for a, _ in parts] for _, value in night.asked])
    rows = []
    for seed in seeds:
        book = codebooks.fit(examples, entries, layer=below, mark=0, seed=seed)
        with torch.no_grad():
            rows.append(_compared(book.scores(asked).cpu(), book.scores(never).cpu(), right))
    means = {name: round(statistics.mean(row[name] for row in rows), 3) for name in rows[0]}
    covered = round(float(right.any(1).float().mean()), 3)
    return {
        "days": [*days],
        "answers": len({a for a, _ in parts}),
        "entries": len(parts),
        "examples": len(entries),
        "covered": covered,
        **means,
    }


def _compared(asked: Tensor, never: Tensor, right: Tensor) -> dict[str, float]:
    for scores in (asked, never):
        scores[:, ELSEWHERE] = -torch.inf
    each = torch.arange(len(asked))
    curve = []
    for step in range(-_STEPS, _STEPS + 1):
        more = torch.zeros(asked.shape[1]).index_fill_(0, torch.tensor(DENIAL), step * _STEP)
        found, open_ = (asked + more).argmax(1), (never + more).argmax(1)
        recall, denied = right[each, found].float().mean(), (open_ == DENIAL).float().mean()
        curve.append((float(recall), float(denied)))
    return {
        "first": float(right[each, asked[:, FIRST:].argmax(1) + FIRST].float().mean()),
        "recall": curve[_STEPS][0],
        "denied": curve[_STEPS][1],
        **{f"at {share}": max((r for r, d in curve if d >= share), default=0.0) for share in _AT},
    }


def _dreamt(days: Sequence[int], notes: Mapping[str, tuple[Note, ...]], beginning: Path) -> _Night:
    week = json.loads(WEEK.read_text(encoding="utf-8"))
    told = [fact for day in days for fact in week["days"][day - 1]]
    end = datetime(2026, 11, 29, tzinfo=UTC)
    experiences = [
        Experience(
            n=n,
            id=f"e{n}",
            text=fact["tell"],
            at=end - timedelta(minutes=len(told) - n),
            provenance=Provenance(channel="chat", session=f"s{n // 5}"),
            recorded_at=end,
            copies=1,
            pinned=False,
            private=False,
            quarantined=None,
            superseded_by=None,
            salience=None,
            accesses=0,
            accessed_at=None,
        )
        for n, fact in enumerate(told)
    ]
    selected = select(experiences, now=end, notes={e.id: notes[e.text] for e in experiences})
    setting = Setting(model=str(weights_of()), beginning=str(beginning))
    job = plan([one.fact for one in selected.facts], [], seed=1, setting=setting).job
    asked = [(question, fact["value"]) for fact in told for question in fact["ask"]]
    return _Night(job.examples, frozenset(job.denials), job.asked_for, asked, week["never_told"])


def _states(trainer: Trainer, questions: Sequence[str], below: int) -> Tensor:
    found = []
    with torch.no_grad():
        for start in range(0, len(questions), _AT_ONCE):
            found.append(trainer.states(questions[start : start + _AT_ONCE], below=below))
            trainer._lower.clear()
    return torch.cat(found)


def _noted(messages: Sequence[str], file: Path | None, device: str) -> dict[str, tuple[Note, ...]]:
    """The notes on each message, by what was kept or anew."""
    by = [Path(folder or "").name for folder in (writer_for(weights_of()), reader_for(weights_of()))]
    if file is not None and file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept.get("read by") != by:
            raise SystemExit(f"{file}: read by another writer or reader than ships; name another file")
        return {message: listing.noted(message, *kept["replies"][message]) for message in messages}

    made = dict(zip(messages, replies_to(messages, seed=1, device=device), strict=True))
    if file is not None:
        file.write_text(json.dumps({"read by": by, "replies": made}), encoding="utf-8")
    return {message: listing.noted(message, *of) for message, of in made.items()}


def replies_to(messages: Sequence[str], *, seed: int, device: str) -> list[tuple[list[str], list[str]]]:
    """The writer's replies to each message, and to what the reader lists of it: as a night reads."""

    def speaker(folder: str | None) -> Trainer:
        assert folder is not None, "no reader or no writer for the default model"
        trainer = Trainer(loaded(device)[0], Recipe(seed=seed), start=Path(folder))
        trainer.merge()
        return trainer

    torch.manual_seed(seed)
    many, writer, reader = len(messages), speaker(writer_for(weights_of())), speaker(reader_for(weights_of()))
    own, asked = noted_of(writer, reader, messages, each=lambda n: tell(f"read {n} of {LOOKS * many}"))
    return list(zip(own, asked, strict=True))


def tell(text: str) -> None:
    """A line for whoever waits."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", nargs="+", type=int, action="append", help="one night's; again for another night")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--beginning", type=Path, help="another than the one that ships")
    parser.add_argument("--notes", type=Path, help="where what writer and reader replied is kept")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    nights = args.days or [[1, 2], [6, 7]]
    week = json.loads(WEEK.read_text(encoding="utf-8"))["days"]
    told = [fact["tell"] for days in nights for day in days for fact in week[day - 1]]
    notes = _noted(told, args.notes, args.device)
    beginning = args.beginning or Path(beginning_for(weights_of()) or "")
    runs = [run(days, args.seeds, beginning, notes, args.device) for days in nights]
    sys.stdout.write(json.dumps(runs, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

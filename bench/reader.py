"""Train the reader (consolidation/listing.py) on bench/lists.jsonl, or see what it lists.

    python -m bench.reader train OUT [--device cuda] [--epochs 3] [--more bench/several.jsonl ... [--alone]]
    python -m bench.reader try FOLDER [MESSAGES.json] [--device cuda] [--show]

The lists are of messages that were written for this, for the writer and for the beginning of nights (lessons.jsonl,
consolidation/texts/tellings.jsonl), by a larger model that saw none of bench/nights; it then listed all that each
tells. With --more there are others, that tell several things in a sentence (several.jsonl) or by the way
(in_passing.jsonl; what ships has read those twice, rank 32). One in twelve is held back, and `try` without a file says
how much of what those tell is found (`found`: the value, whole; `alike`: some word of it that carries meaning), and how
much of what is found they tell (`right`). With a file of bench/nights' form it says of how many messages the value is
among what is listed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.shipped import learn, loaded, shipped, trainer
from bench.told import held_back, read
from bench.writer import messages_of
from consolidation import listing
from consolidation.english import spoken
from consolidation.listing import Told
from consolidation.notes import heavy
from consolidation.noting import listed_of
from models.recipe import Recipe
from models.training import Trainer

LISTS = Path(__file__).parent / "lists.jsonl"
Lesson = tuple[str, tuple[Told, ...]]


def lessons(more: Sequence[Path] = (), *, held: bool, alone: bool = False) -> list[Lesson]:
    """Messages, and what each tells. `alone`: of the further files, without the lists."""
    rows = map(json.loads, [] if alone else LISTS.read_text(encoding="utf-8").splitlines())
    lists = [(row["say"], tuple(Told(told, value) for told, value in row["tells"])) for row in rows]
    others = [
        [(message[0].say, tuple(Told(one.tell, one.value) for one in message if one.tell)) for message in read(file)]
        for file in more
    ]
    return [lesson for some in (lists, *others) for n, lesson in enumerate(some) if held_back(n) is held]


def train(
    out: Path,
    *,
    device: str,
    epochs: int,
    model: str | None,
    rank: int,
    rate: float,
    batch: int,
    more: Sequence[Path] = (),
    alone: bool = False,
) -> None:
    """Write the reader's folder. Its name is to carry the digest of its file."""
    base, weights = loaded(device, model)
    chance, given = random.Random(0), lessons(more, held=False, alone=alone)
    asked = [
        (listing.prompt(say), listing.written(tells))
        for _ in range(epochs)
        for say, tells in chance.sample(given, len(given))
    ]
    learn(trainer(base, rank=rank, rate=rate, batch=batch), asked, out)
    shipped(out, "reader.json", weights, given, epochs=epochs)


def attempt(
    folder: Path, file: Path | None, *, device: str, model: str | None, show: bool, more: Sequence[Path] = ()
) -> dict[str, Any]:
    """What it finds of what messages tell."""
    base, _ = loaded(device, model)
    reader = Trainer(base, Recipe(), start=folder)
    reader.merge()
    given = lessons(more, held=True) if file is None else _of(file)
    began = time.monotonic()
    found = listed_of(reader, [say for say, _ in given], at_once=64)
    if show:
        for (say, tells), of in zip(given, found, strict=True):
            sys.stdout.write(f"{say}\n    wanted {[t.value for t in tells]}\n")
            sys.stdout.writelines(f"    {one.told} | {one.value}\n" for one in of)
    wanted = sum(len(tells) for _, tells in given)
    listed = sum(map(len, found))
    pairs = [(tells, of) for (_, tells), of in zip(given, found, strict=True)]
    return {
        "messages": len(given),
        "told": wanted,
        "listed": listed,
        "found": sum(any(_whole(one.value, o.value) for o in of) for tells, of in pairs for one in tells) / wanted,
        "alike": sum(any(heavy(one.value) & heavy(o.value) for o in of) for tells, of in pairs for one in tells)
        / wanted,
        "right": sum(any(heavy(one.value) & heavy(o.value) for one in tells) for tells, of in pairs for o in of)
        / max(1, listed),
        "nothing_of_nothing": sum(not of for tells, of in pairs if not tells),
        "nothing": sum(not tells for tells, _ in pairs),
        "seconds": time.monotonic() - began,
    }


def _of(file: Path) -> Sequence[Lesson]:
    return [(say, (Told("", value),) if value else ()) for say, value in messages_of(file)]


def _whole(value: str, found: str) -> bool:
    return f" {' '.join(spoken(value))} " in f" {' '.join(spoken(found))} "


def main() -> int:
    """Train or try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "try"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("messages", type=Path, nargs="?")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="a folder of weights; else the default model's")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--more", type=Path, nargs="+", default=(), help="further messages, lines of several.jsonl")
    parser.add_argument("--alone", action="store_true", help="train on those of --more, without lists.jsonl")
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    if args.alone and (args.what != "train" or not args.more):
        parser.error("--alone is for train, and needs --more")
    if args.what == "train":
        train(
            args.folder,
            device=args.device,
            epochs=args.epochs,
            model=args.model,
            rank=args.rank,
            rate=args.rate,
            batch=args.batch,
            more=args.more,
            alone=args.alone,
        )
        return 0
    done = attempt(args.folder, args.messages, device=args.device, model=args.model, show=args.show, more=args.more)
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

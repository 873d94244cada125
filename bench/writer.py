"""Train the writer (consolidation/notes.py) on consolidation/texts/tellings.jsonl, or see what it makes of messages.

    python -m bench.writer train OUT [--device cuda] [--epochs 3] [--more FILE ...]
    python -m bench.writer try FOLDER MESSAGES.json [--show]

What ships has learnt from lessons.jsonl, several.jsonl and in_passing.jsonl too (rank 32, batch 16). `try` takes a file
of bench/nights' form or lines of tellings, and says of how many messages the note holds the value; those must be
messages that it was not trained on.
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
from consolidation import notes
from consolidation.noting import written_of
from models.recipe import Recipe
from models.training import Trainer


def train(
    out: Path,
    *,
    device: str,
    epochs: int,
    model: str | None,
    layers: float,
    rank: int,
    rate: float,
    batch: int,
    more: Sequence[Path] = (),
) -> None:
    """Write the writer's folder. Its name is to carry the digest of its file."""
    base, weights = loaded(device, model)
    chance = random.Random(0)
    others = (message for file in more for n, message in enumerate(read(file)) if not held_back(n))
    given = [*notes.tellings(), *(telling for message in others for telling in message)]
    asked = [
        (notes.prompt(telling.say), _lesson(telling, chance))
        for _ in range(epochs)
        for telling in chance.sample(given, len(given))
    ]
    learn(trainer(base, rank=rank, rate=rate, batch=batch, layers=layers), asked, out)
    shipped(out, "writer.json", weights, given, epochs=epochs)


def _lesson(telling: notes.Telling, chance: random.Random) -> str:
    """What the writer is to answer; the questions in another order each time round."""
    if telling.tell is None:
        return notes.NOTHING
    asks = chance.sample(telling.ask, len(telling.ask))
    never = chance.sample(telling.never, len(telling.never))
    return notes.written(telling.tell, telling.value, asks, never)


def attempt(folder: Path, file: Path, *, device: str, model: str | None, show: bool) -> dict[str, Any]:
    """How many notes hold the value that was told."""
    base, _ = loaded(device, model)
    writer = Trainer(base, Recipe(), start=folder)
    given = messages_of(file)
    began = time.monotonic()
    replies = written_of(writer, [say for say, _ in given])
    found = [notes.notes_of(say, of) for (say, _), of in zip(given, replies, strict=True)]
    good = sum(any(v.lower() in n.told.lower() for n in of) for of, (_, v) in zip(found, given, strict=True) if v)
    if show:
        for (say, value), of, reply in zip(given, found, replies, strict=True):
            sys.stdout.write(f"{say} || {value}\n")
            sys.stdout.writelines(f"    {note}\n" for note in of or ("NOTHING KEPT", reply[0]))
    facts = sum(1 for _, v in given if v)
    return {
        "messages": facts,
        "value_told": good / max(1, facts),
        "nothing_kept_of_nothing": sum(not of for of, (_, v) in zip(found, given, strict=True) if not v),
        "nothing": len(given) - facts,
        "questions": sum(len(n.asks) for of in found for n in of) / max(1, sum(map(len, found))),
        "near": sum(len(n.never) for of in found for n in of) / max(1, sum(map(len, found))),
        "things": sum(map(len, found)),
        "seconds": time.monotonic() - began,
    }


def messages_of(file: Path) -> list[tuple[str, str]]:
    """What is said in a file of bench/nights' form or lines of tellings, and the value that it tells; empty if none."""
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return [(r["say"], r.get("value") or "") for r in rows]
    data = json.loads(file.read_text(encoding="utf-8"))
    talk = [(s, "") for s in data.get("small_talk", [])]
    if "facts" in data:
        return [(f["tell"].format(v=f["values"][0]), f["values"][0]) for f in data["facts"]] + talk
    if "days" in data:
        return [(f["tell"], f["value"]) for day in data["days"] for f in day] + talk
    return [(m["say"], m["value"]) for p in data["people"] for m in p["messages"]]


def main() -> int:
    """Train or try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "try"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("messages", type=Path, nargs="?")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="a folder of weights; else the default model's")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--layers", type=float, default=1.0, help="share of the layers, from the top")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--more", type=Path, nargs="+", default=(), help="further messages, lines of several.jsonl")
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    if args.what == "train":
        train(
            args.folder,
            device=args.device,
            epochs=args.epochs,
            model=args.model,
            layers=args.layers,
            rank=args.rank,
            rate=args.rate,
            batch=args.batch,
            more=args.more,
        )
        return 0
    done = attempt(args.folder, args.messages, device=args.device, model=args.model, show=args.show)
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Do the persona's variables change what is said? Each forced to five levels, beside placebos; and asked for in words.

    python -m bench.persona --json [--prompts 180] [--variables warmth fatigue] [--development]

What `slowwave persona test` does (causality.py), and beside it `words`: the same variable asked for by a note before
the prompt, against notes that say nothing to the point. The 180 prompts chose nothing: where each variable acts, and
how far, was settled on those of `--development`. Greedy, or with `--temperature` and the same seed for both of a pair.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from agent.steering import ENDINGS, VARIABLES
from causality import (
    SHORT,
    WHOLE,
    Bench,
    Forced,
    chain,
    effect,
    gauged,
    intervention,
    measured,
    opened,
    prompts,
    replayed,
    together,
)
from models.weights import DEFAULT_MODEL
from settings import Settings

WORDS = {
    "pleasure": ("[You feel very happy.]", "[You feel very sad.]"),
    "warmth": ("[You feel very warm and friendly.]", "[You feel very cold and distant.]"),
    "arousal": ("[You feel very energetic.]", "[You feel very calm.]"),
    "curiosity": ("[You feel very curious. You ask questions.]", "[You feel bored. You ask nothing.]"),
    "fatigue": ("[You feel very tired. You say little.]", "[You feel wide awake. You say much.]"),
}
_SAY_NOTHING = (("[The sky is very blue.]", "[The table is very round.]"), ("[It is Monday.]", "[It is noon.]"))


def by_words(bench: Bench, name: str) -> dict[str, float]:
    """A variable asked for by a note, and the largest of notes that say nothing to the point."""
    tokens = WHOLE if name in ENDINGS else SHORT

    def noted(notes: tuple[str, str]) -> float:
        high, low = (measured(name, bench.replies(Forced(words=f"{note}\n\n"), tokens=tokens)) for note in notes)
        return effect(high, low)

    return {"effect": noted(WORDS[name]), "placebo": max(abs(noted(notes)) for notes in _SAY_NOTHING)}


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--prompts", type=int, default=180)
    parser.add_argument("--development", action="store_true", help="the prompts that scales are settled on")
    parser.add_argument("--variables", nargs="*", default=sorted(VARIABLES), choices=sorted(VARIABLES))
    parser.add_argument("--placebos", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    engine, steerer = opened(Settings(model=args.model))
    done: dict[str, Any] = {"replayed": replayed(), "coherence": gauged()}
    try:
        bench = Bench(
            engine, steerer, prompts(development=args.development)[: args.prompts], temperature=args.temperature
        )
        done |= {"prompts": len(bench.said), "variables": {}, "words": {}}
        for name in args.variables:
            began = time.monotonic()
            found = intervention(bench, name, placebos=args.placebos)
            done["variables"][name] = {**found, "seconds": round(time.monotonic() - began, 1)}
            sys.stderr.write(f"{name}: { ({k: v for k, v in found.items() if k != 'examples'}) }\n")
        done |= {"together": together(bench), "chain": chain(bench)}
        sys.stderr.write(f"{done['together']} {done['chain']}\n")
        for name in args.variables:
            done["words"][name] = by_words(bench, name)
            sys.stderr.write(f"{name} by words: {done['words'][name]}\n")
    finally:
        engine.close()
    sys.stdout.write(json.dumps(done, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

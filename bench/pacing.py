"""Whether the agent's choice of its pace follows its gauges: every combination shown, beside gauges that mean nothing.

    python -m bench.pacing --json [--model NAME] [--ship]

What is scored is how much likelier the model is to say "slower" than "faster" (agent/pacing.py). Effects are mean
differences between the ends of a gauge, all else equal, in standard deviations of those differences; the placebo is
the largest of three gauges that have nothing to do with it. With --ship the model's scale is written where the product
finds it, if every gauge moves the model the way it should, and three times as far as the placebo.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

from agent import pacing
from models.engine import Engine
from nights import base_digest
from service import load_model
from settings import Settings

PLACEBOS = {"moon": ("new", "full"), "weather": ("rain", "sun"), "wall": ("white", "blue")}

SIGNS = {"machine": 1, "tiredness": 1, "waiting": -1}
"""Whether more of it should make the heart slower."""


def run(settings: Settings, *, ship: bool) -> dict[str, Any]:
    """Show the gauges."""
    engine = Engine(lambda: load_model(settings))
    engine.wait_until_loaded()
    try:
        scale, found = pacing.measure(engine)
        names = list(pacing.LEVELS)
        rows = [dict(zip(names, key.split(", "), strict=True)) for key in found]
        effects = {}
        for name, levels in pacing.LEVELS.items():
            ends = [(found[_key(row | {name: levels[-1]})], found[_key(row)]) for row in rows if row[name] == levels[0]]
            effects[name] = _effect([a - b for a, b in ends])
        placebos = {}
        some = rows[:: max(1, len(rows) // 12)]
        for name, (low, high) in PLACEBOS.items():
            ends = [
                (pacing.contrast(engine, row | {name: high}), pacing.contrast(engine, row | {name: low}))
                for row in some
            ]
            placebos[name] = _effect([a - b for a, b in ends])
    finally:
        engine.close()
    digest = base_digest(settings)()
    placebo = max(abs(p["mean"]) for p in placebos.values())
    follows = all(effects[name]["mean"] * sign >= 3 * placebo for name, sign in SIGNS.items())
    if ship and follows:
        known = json.loads(pacing.SCALES.read_text(encoding="utf-8"))
        known[digest] = {"lower": round(scale.lower, 4), "upper": round(scale.upper, 4)}
        pacing.SCALES.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return {
        "model": settings.model,
        "digest": digest,
        "scale": {"lower": scale.lower, "upper": scale.upper},
        "follows_its_gauges": follows,
        "effects": effects,
        "placebos": placebos,
        "choices": {key: scale.choice(value) for key, value in found.items()},
        "contrasts": found,
    }


def _key(row: dict[str, str]) -> str:
    return ", ".join(row[name] for name in pacing.LEVELS)


def _effect(differences: list[float]) -> dict[str, float]:
    spread = statistics.stdev(differences)
    return {
        "mean": statistics.mean(differences),
        "standardised": statistics.mean(differences) / spread if spread else float("inf"),
        "share_of_that_sign": statistics.mean((d > 0) == (statistics.mean(differences) > 0) for d in differences),
    }


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=Settings().model)
    parser.add_argument("--ship", action="store_true", help="write the scale where the product finds it")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    done = run(Settings(model=args.model), ship=args.ship)
    sys.stdout.write(json.dumps(done, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Measure the scale of salience for the models that are shipped, so that nobody's first start has to.

    python -m bench.calibration --write

Writes memory/calibrations.json: to be run when the calibration texts, a model's chat template or the sentence vectors
change. Other models are measured at their first start, between turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import memory
from agent.calibration import calibrate
from models.embedding import SentenceEncoder, find
from models.engine import Engine
from service import load_model
from settings import Settings

FILE = Path(memory.__path__[0]) / "calibrations.json"


def measured(model: str) -> tuple[str, dict[str, Any]]:
    """The key and the scale of one model."""
    weights = find()
    engine = Engine(lambda: load_model(Settings(model=model)))
    engine.wait_until_loaded()
    encoder = None if weights is None else SentenceEncoder(weights, run=engine.run)
    made = calibrate(engine, None if encoder is None else encoder.embed)
    engine.close()

    def rounded(values: tuple[float, ...]) -> list[float]:
        return [round(value, 5) for value in values]

    return made.model, {
        "strangest": round(made.strangest, 5),
        "surprise": rounded(made.surprise),
        "novelty": rounded(made.novelty),
        "arousal": rounded(made.arousal),
    }


def main() -> int:
    """Measure, print, and with --write keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into memory/calibrations.json")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    scales = dict(measured(model) for model in ("SmolLM2-135M-Instruct", "scripted"))
    if args.write:
        FILE.write_text(json.dumps(scales, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    shown = {key: scale["strangest"] for key, scale in scales.items()}
    sys.stdout.write(json.dumps(shown, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

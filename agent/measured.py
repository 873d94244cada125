"""What forcing each variable was found to change on a model: kept beside its directions, and shown with the variables.

`slowwave persona test` measures it (causality.py) and keeps it here; the default model's is shipped.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One variable, forced to 1 against -1, in standard deviations of what it claims to change."""

    effect: float
    low: float
    high: float
    """The effect's 95 % interval."""
    placebo: float
    """The largest effect of random directions as long."""
    spearman: float
    """Of five levels with what they came to."""
    surprise: float
    """How much more surprising replies are to the model left alone, at -1 or 1, whichever is more."""
    prompts: int
    kept: bool
    """Whether that is enough to keep it (causality.py)."""
    at: str
    """When it was measured."""

    @classmethod
    def of(cls, found: Mapping[str, Any], *, prompts: int, at: str) -> Act:
        """From what `causality.intervention` found."""
        low, high = found["interval"]
        return cls(
            effect=float(found["effect"]),
            low=float(low),
            high=float(high),
            placebo=float(found["placebo"]),
            spearman=float(found["spearman"]),
            surprise=float(max(found["perplexity_more"].values())),
            prompts=prompts,
            kept=bool(found["kept"]),
            at=at,
        )


def keep(acts: Mapping[str, Act], file: Path) -> None:
    """Write them beside those that the file has of other variables, whole or not at all."""
    whole = {**kept(file), **acts}
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: asdict(act) for name, act in sorted(whole.items())}, indent=2) + "\n"
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as made:
        made.write(text)
        made.flush()
        os.fsync(made.fileno())
    Path(made.name).replace(file)


def kept(file: Path) -> dict[str, Act]:
    """What `keep` wrote; nothing where it is not there, or is not what `keep` writes."""
    try:
        acts = {str(name): Act(**row) for name, row in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return acts if all(map(_sound, acts.values())) else {}


def _sound(act: Act) -> bool:
    numbers = (act.effect, act.low, act.high, act.placebo, act.spearman, act.surprise, act.prompts)
    return (
        all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        and isinstance(act.kept, bool)
        and isinstance(act.at, str)
    )

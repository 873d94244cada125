"""How many corrections of what was told are seen, and how many are seen where there are none.

    python -m bench.revisions --json [--half development | held]

130 pairs of messages (bench/nights/revisions.json): half correct what was told, in five ways, from naming both values
to naming nothing; half do not: something is added, confirmed, changed elsewhere, or somebody else's. A pair is seen if
memory takes the first message for replaced, or a night does: by its rules, or by the reviser
(consolidation/revisions.py). The held half is for figures: whoever improves this looks at the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.night import holds
from consolidation.revisions import Revision, least, revision_of
from consolidation.selection import select
from consolidation.worker import revised_of
from memory.experience import Experience, Provenance
from memory.sameness import relate
from models.recipe import Recipe
from models.trainable import Trainable
from models.training import Trainer
from models.weights import resolve
from nights import reviser_for
from settings import Settings

PAIRS = Path(__file__).parent / "nights" / "revisions.json"
_AT = datetime(2026, 11, 28, 12, tzinfo=UTC)


def by_rule(pair: dict[str, Any]) -> bool:
    """Whether the later message is taken to correct the earlier without a model's looking at them."""
    if relate(pair["later"], pair["tell"]) == "changed":
        return True
    told = [_experience(n, text) for n, text in enumerate((pair["tell"], pair["later"]))]
    chosen = select(told, now=_AT + timedelta(days=3))
    return any(sourced.former is not None for sourced in chosen.facts)


def by_model(pairs: Sequence[dict[str, Any]], *, device: str) -> list[Revision | None]:
    """What the reviser says of each pair."""
    weights = Path(resolve("SmolLM2-135M-Instruct", cache_dir=Settings().cache_dir).location)
    folder = reviser_for(weights)
    if folder is None:
        return [None] * len(pairs)
    base = Trainable.load(weights, name="base", device=device, dtype="auto")
    reviser = Trainer(base, Recipe(), start=Path(folder))
    replies, _ = revised_of(reviser, [(p["tell"], p["later"]) for p in pairs], least=least(Path(folder)))
    return [revision_of(p["tell"], p["later"], r, experience="m0") for p, r in zip(pairs, replies, strict=True)]


def _experience(n: int, text: str) -> Experience:
    at = _AT + timedelta(days=n)
    return Experience(
        n=n,
        id=f"m{n}",
        text=text,
        at=at,
        provenance=Provenance(session=f"s{n}", channel="chat"),
        recorded_at=at,
        copies=1,
        pinned=False,
        private=False,
        quarantined=None,
        superseded_by=None,
        salience=None,
        accesses=0,
        accessed_at=None,
    )


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=["development", "held"], default="held")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    pairs = json.loads(PAIRS.read_text(encoding="utf-8"))[args.half == "held" :: 2]
    said = by_model(pairs, device=args.device)
    seen = [one is not None or by_rule(pair) for pair, one in zip(pairs, said, strict=True)]
    kinds: dict[str, list[bool]] = defaultdict(list)
    for pair, found in zip(pairs, seen, strict=True):
        kinds[pair["kind"]].append(found)
    right = [found for pair, found in zip(pairs, seen, strict=True) if pair["corrects"]]
    wrong = [found for pair, found in zip(pairs, seen, strict=True) if not pair["corrects"]]
    values = [holds(one.now, pair["new"]) for pair, one in zip(pairs, said, strict=True) if pair["new"] and one]
    report = {
        "corrections": len(right),
        "seen": sum(right) / len(right),
        "by_rule": sum(by_rule(p) for p in pairs if p["corrects"]) / len(right),
        "value_right_where_seen": sum(values) / len(values) if values else None,
        "others": len(wrong),
        "seen_wrongly": sum(wrong) / len(wrong),
        "by_kind": {kind: f"{sum(of)} of {len(of)}" for kind, of in sorted(kinds.items())},
    }
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

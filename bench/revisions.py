"""How many corrections of what was told are seen, and how many are seen where there are none.

    python -m bench.revisions --json [--half development | held]

130 pairs of messages (bench/nights/revisions.json): half correct what was told, in five ways, from naming both values
to naming nothing; half do not: something is added, confirmed, changed elsewhere, or somebody else's. A pair is seen if
memory takes the first message for replaced, or a night's facts, read by rule, for corrected. The held half is for
figures: whoever improves this looks at the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from consolidation.selection import select
from memory.experience import Experience, Provenance
from memory.sameness import relate

PAIRS = Path(__file__).parent / "nights" / "revisions.json"
_AT = datetime(2026, 11, 28, 12, tzinfo=UTC)


def seen(pair: dict[str, Any]) -> bool:
    """Whether the later message is taken to correct the earlier."""
    if relate(pair["later"], pair["tell"]) == "changed":
        return True
    told = [_experience(n, text) for n, text in enumerate((pair["tell"], pair["later"]))]
    chosen = select(told, now=_AT + timedelta(days=3))
    return any(sourced.former is not None for sourced in chosen.facts)


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
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    pairs = json.loads(PAIRS.read_text(encoding="utf-8"))[args.half == "held" :: 2]
    kinds: dict[str, list[bool]] = defaultdict(list)
    for pair in pairs:
        kinds[pair["kind"]].append(seen(pair))
    right = [seen(p) for p in pairs if p["corrects"]]
    wrong = [seen(p) for p in pairs if not p["corrects"]]
    report = {
        "corrections": len(right),
        "seen": sum(right) / len(right),
        "others": len(wrong),
        "seen_wrongly": sum(wrong) / len(wrong),
        "by_kind": {kind: f"{sum(of)} of {len(of)}" for kind, of in sorted(kinds.items())},
    }
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

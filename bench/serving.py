"""How fast the service is, beside plain `transformers.generate` in the same run.

    python -m bench.serving --json

Measured over HTTP, from outside: time to first token, prefill and decode speed at several context lengths, alone and
with concurrent sessions, and what a second turn costs. `generate` runs on the same weights in this process, in turn
with the service, while the service idles. Medians, least and most of `--repeats` runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from bench.server import Server
from models.weights import DEFAULT_MODEL, resolve
from settings import load

CONTEXTS = (16, 512, 2048)
NEW_TOKENS = 64
WORDS = ["river", "lamp", "quiet", "seven", "window", "garden", "letter", "music", "stone", "winter", "copper"]
progress = Console(stderr=True)


class Service:
    """One measured request at a time, each with a history nobody has sent before."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=300)
        self.rng = random.Random(1)
        self.fillers: dict[int, list[str]] = {}

    def prompt(self, tokens: int) -> list[dict[str, str]]:
        """Messages that take `tokens` tokens once the template has wrapped them, and that no cache has seen.

        The template alone takes some 20, so the shortest context is what it makes of a number and three words.
        """
        if tokens not in self.fillers:
            words: list[str] = []
            for _ in range(4):
                have = self.ask(self._messages(words), 1)["usage"]["prompt_tokens"]
                words = [*words, *self.rng.choices(WORDS, k=max(0, tokens - have))][: len(words) + tokens - have]
            self.fillers[tokens] = words
        return self._messages(self.fillers[tokens])

    def _messages(self, words: list[str]) -> list[dict[str, str]]:
        """The salt stands at the very beginning: what comes after it was never read in this context."""
        salt = str(self.rng.randrange(10**5, 10**6))
        return [
            {"role": "system", "content": " ".join([salt, *words])},
            {"role": "user", "content": "Tell a story."},
        ]

    def ask(self, messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
        """One greedy reply."""
        body = self._body(messages, max_tokens)
        answer = self.client.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
        reply: dict[str, Any] = answer.json()
        return reply

    def streamed(self, messages: list[dict[str, str]], max_tokens: int) -> tuple[float, float, dict[str, Any]]:
        """Seconds to the first piece of text and to the end, as a client sees them, and the service's own figures."""
        body = {**self._body(messages, max_tokens), "stream": True}
        began, first = time.perf_counter(), 0.0
        ours: dict[str, Any] = {}
        with self.client.stream("POST", "/v1/chat/completions", json=body) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    if not first and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                        first = time.perf_counter() - began
                    ours = chunk.get("slowwave", ours)
        # Markup has no text: where the model begins with it, the service's own figure stands in.
        return first or ours["timings"]["time_to_first_token_ms"] / 1000, time.perf_counter() - began, ours

    def _body(self, messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
        options = {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
        return {"model": DEFAULT_MODEL, "messages": messages, **options}


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": round(statistics.median(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}


def alone(service: Service, context: int) -> dict[str, float]:
    """One request with nobody else there."""
    first, _, ours = service.streamed(service.prompt(context), NEW_TOKENS)
    timings = ours["timings"]
    return {
        "time_to_first_token_s": first,
        "prefill_tokens_per_s": timings["prefill_tokens"] / (timings["prefill_ms"] / 1000),
        "decode_tokens_per_s": timings["tokens_per_second"],
        "prompt_tokens": timings["prefill_tokens"],
    }


def concurrent(service: Service, context: int, sessions: int) -> dict[str, float]:
    """Several sessions at once, whose contexts have been read: all tokens over the time until the last ends."""
    histories = []
    for _ in range(sessions):
        messages = service.prompt(context)
        said = service.ask(messages, 2)["choices"][0]["message"]["content"]
        histories.append([*messages, {"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}])
    began = time.perf_counter()
    with ThreadPoolExecutor(sessions) as pool:
        replies = list(pool.map(lambda messages: service.ask(messages, NEW_TOKENS), histories))
    took = time.perf_counter() - began
    return {
        "tokens_per_s": sum(r["usage"]["completion_tokens"] for r in replies) / took,
        "prefill_tokens": max(r["slowwave"]["timings"]["prefill_tokens"] for r in replies),
    }


def second_turn(service: Service) -> dict[str, float]:
    """What the second turn of a conversation reads, of what stands in its context."""
    messages = service.prompt(512)
    reply = service.ask(messages, 16)["choices"][0]["message"]["content"]
    again = [*messages, {"role": "assistant", "content": reply}, {"role": "user", "content": "And then?"}]
    first, _, ours = service.streamed(again, 16)
    return {
        "time_to_first_token_s": first,
        "prefill_tokens": ours["timings"]["prefill_tokens"],
        "cached_tokens": ours["timings"]["cached_tokens"],
    }


def make_generate(dtype: str) -> Callable[[int], dict[str, float]]:
    """`transformers.generate` on the same weights, as its documentation has it."""
    import torch
    from transformers import AutoModelForCausalLM

    source = resolve(DEFAULT_MODEL, cache_dir=load().settings.cache_dir).location
    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype)).eval()
    rng = random.Random(2)

    def measure(context: int) -> dict[str, float]:
        ids = torch.tensor([[rng.randrange(100, 49000) for _ in range(context)]])
        first = seconds_to_generate(model, ids, 1)
        whole = seconds_to_generate(model, ids, NEW_TOKENS)
        return {
            "time_to_first_token_s": first,
            "prefill_tokens_per_s": context / first,
            "decode_tokens_per_s": (NEW_TOKENS - 1) / (whole - first),
        }

    return measure


def seconds_to_generate(model: Any, ids: Any, new: int) -> float:
    """Of `transformers.generate`, for so many tokens."""
    import torch

    began = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids, attention_mask=torch.ones_like(ids), min_new_tokens=new, max_new_tokens=new, do_sample=False
        )
    return time.perf_counter() - began


def collect(measure: Callable[[], dict[str, float]], rows: dict[str, list[float]]) -> None:
    """Run once more and keep the figures."""
    for name, value in measure().items():
        rows.setdefault(name, []).append(value)


def measure(service: Service, dtype: str, contexts: Sequence[int], repeats: int, sessions: int) -> dict[str, Any]:
    """The service in `dtype` beside generate in both; every round measures all of them, one after the other."""
    peers = {f"generate_{peer}": make_generate(peer) for peer in ("float32", "bfloat16")}
    report: dict[str, Any] = {}
    for context in contexts:
        progress.print(f"{dtype}, context {context} ...")
        rows: dict[str, dict[str, list[float]]] = {}
        for repeat in range(repeats + 1):
            into = rows if repeat else {}  # the first round warms up
            collect(partial(alone, service, context), into.setdefault("slowwave", {}))
            for name, peer in peers.items():
                collect(partial(peer, context), into.setdefault(name, {}))
            collect(partial(concurrent, service, context, 1), into.setdefault("sessions_1", {}))
            collect(partial(concurrent, service, context, sessions), into.setdefault(f"sessions_{sessions}", {}))
        ours, one, many = rows["slowwave"], rows["sessions_1"], rows[f"sessions_{sessions}"]
        report[f"context_{context}"] = {
            **{name: {k: spread(v) for k, v in figures.items()} for name, figures in rows.items()},
            **{
                f"{figure}_ratio_to_{name}": ratio(ours[figure], rows[name][figure])
                for figure in ("decode_tokens_per_s", "prefill_tokens_per_s")
                for name in peers
            },
            f"sessions_{sessions}_ratio_to_1": ratio(many["tokens_per_s"], one["tokens_per_s"]),
        }
    again: dict[str, list[float]] = {}
    for _ in range(repeats):
        collect(partial(second_turn, service), again)
    report["second_turn"] = {k: spread(v) for k, v in again.items()}
    return report


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Round by round, so that a machine whose speed drifts does not matter."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    report: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "new_tokens": NEW_TOKENS, "repeats": args.repeats}
    for dtype in args.dtypes:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--set", f"dtype={dtype}"]
            with Server(Path(folder) / "data", options=options) as server:
                figures = measure(Service(server.url), dtype, args.contexts, args.repeats, args.sessions)
                report[dtype] = {**figures, "resident_mib": round(server.resident_bytes() / 2**20)}
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Branches of one reply: how far they part, and what each costs.

    python -m bench.branches --json [--prompts 8] [--branches 6] [--model SmolLM2-135M-Instruct]

A conversation of some turns is suspended in the middle of a reply (temperature 0.8), forked, and every fork resumed:
some with nothing changed, some with other seeds, some with other seeds and another temperature. Reported for each kind,
over all pairs of its forks and all prompts: the share that is the same to the end; after how many words the others part
(median, least, most); how many of their words they have in common from the cut on (Jaccard's index of the sets).

Then the memory (the service's anonymous pages, and what the machine has in shared ones: run nothing beside it) and the
time, for the first fork that is brought back and for each further one, beside what a state weighs. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx

from bench.server import Server
from bench.suspends import cut_off

_TOPICS = (
    "the tides", "baking bread", "a long train journey", "bees", "the night sky", "an old harbour", "chess", "glaciers",
    "writing letters", "volcanoes", "a city of bridges", "orchards",
)  # fmt: skip
_HOW = {"temperature": 0.8, "seed": 1, "max_tokens": 96, "ignore_eos": True}
_CUT_AFTER = 12
"""Pieces of the reply."""
KINDS: dict[str, dict[str, Any]] = {
    "nothing changed": {},
    "other seeds": {"seed": 100},
    "other seeds, temperature 0.4": {"seed": 200, "temperature": 0.4},
    "other seeds, temperature 1.2": {"seed": 300, "temperature": 1.2},
}
"""What a resume names; each branch adds its number to the seed."""


def run(prompts: int, branches: int, model: str) -> dict[str, Any]:
    """All of it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder) / "data", model=model) as server,
        httpx.Client(base_url=server.url, timeout=600) as client,
    ):
        begun = [_begun(client, server.url, n) for n in range(prompts)]
        kinds = {name: _parted([_texts(client, b, branches, how) for b in begun]) for name, how in KINDS.items()}
        return {"prompts": prompts, "branches": branches, "kinds": kinds, "cost": _cost(client, server, branches)}


def _begun(client: httpx.Client, url: str, n: int) -> dict[str, Any]:
    """A session with a reply that is cut off, and what of it is written."""
    session = str(_call(client, "/v1/sessions", {"system": f"You know much about {_TOPICS[n % len(_TOPICS)]}."})["id"])
    body = {"max_tokens": 120, "temperature": 0, "ignore_eos": True, "slowwave": {"recall": False}}
    asked = f"Tell me about {_TOPICS[n % len(_TOPICS)]}, number {n}, and why it matters to you."
    for text in (asked, "And what is the least known about it?"):
        _call(client, f"/v1/sessions/{session}/turns", {**body, "content": text})
    last = {**body, **_HOW, "content": "Now tell me a short story in which all that happens."}
    done, _ = cut_off(client, url, session, last, after=_CUT_AFTER)
    assert done["finish_reason"] == "suspended", done
    return {"session": session, "text": done["text"]}


def _texts(client: httpx.Client, begun: dict[str, Any], branches: int, how: dict[str, Any]) -> list[list[str]]:
    """What each fork says from the cut on, as words; all go on at once."""
    forks = [_call(client, f"/v1/sessions/{begun['session']}/fork", {})["id"] for _ in range(branches)]

    def rest(n: int) -> list[str]:
        changes = {**how, "seed": how["seed"] + n} if how else {}
        text = str(_call(client, f"/v1/sessions/{forks[n]}/resume", changes)["reply"]["text"])
        assert text.startswith(begun["text"]), (text, begun["text"])
        return text[len(begun["text"]) :].split()

    with ThreadPoolExecutor(branches) as pool:
        return list(pool.map(rest, range(branches)))


def _parted(groups: Sequence[Sequence[Sequence[str]]]) -> dict[str, Any]:
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    parting = [_common(a, b) for a, b in pairs if a != b]
    return {
        "pairs": len(pairs),
        "same_to_the_end": sum(a == b for a, b in pairs) / len(pairs),
        "words_until_they_part": _spread(parting) if parting else None,
        "words_in_common": statistics.mean(len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in pairs),
    }


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _cost(client: httpx.Client, server: Server, branches: int) -> dict[str, Any]:
    """Of forks that are brought back and wait."""
    begun = _begun(client, server.url, 1_000)
    forks = [_call(client, f"/v1/sessions/{begun['session']}/fork", {})["id"] for _ in range(branches)]
    assert server.process is not None
    rows, held = [], _memory(server.process.pid)
    for fork in forks:
        back = _call(client, f"/v1/sessions/{fork}/resume", {"continue": False})
        assert back["how"] == "exact", back
        now = _memory(server.process.pid)
        rows.append({"tokens": back["tokens"], "ms": back["seconds"] * 1000, "bytes": now - held})
        held = now
    first, more = rows[0], rows[1:]
    checkpoints = client.get(f"/v1/sessions/{begun['session']}/checkpoints").json()["data"]
    return {
        "tokens": first["tokens"],
        "state_bytes": next(c["bytes"] for c in checkpoints if c["event"] == "suspended"),
        "first": {"ms": first["ms"], "bytes": first["bytes"]},
        "each_further": {name: _spread([r[name] for r in more]) for name in ("ms", "bytes")},
    }


def _memory(pid: int) -> int:
    """Bytes. Pages of a memfd that nobody has touched since are in no process's account, only in the machine's."""
    own = _line(Path(f"/proc/{pid}/smaps_rollup"), "Pss_Anon:")
    return own + _line(Path("/proc/meminfo"), "Shmem:")


def _line(file: Path, name: str) -> int:
    kib = next(line.split()[1] for line in file.read_text().splitlines() if line.startswith(name))
    return int(kib) << 10


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _call(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    answer.raise_for_status()
    return dict(answer.json())


def main() -> int:
    """Branch, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--branches", type=int, default=6)
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    report = run(args.prompts, args.branches, args.model)
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

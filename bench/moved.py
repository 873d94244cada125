"""Sessions carried to another device and back: what changes, and what it costs beside reading again.

    python -m bench.moved --json --device cuda --dtype bfloat16 [--prompts 20] [--files DIR]

Two services on this machine: one on the CPU in float32, one as named. `--prompts` sessions are begun on the first,
exported, imported into the other and continued there, greedily; the first continues too. Reported: how each arrived,
the KL divergence of the next token's distribution (from the logits that travel in the file), the share of tokens that
agree before the first that differs and in all, and the time of moving (export, import, resume) beside that of reading
again. Then the way back. `--files`: also take in the files that lie there, and leave two of this machine's there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from bench.server import Server

_REPLY, _AT_ONCE = 32, 8
_LAST = {"role": "user", "content": "Now put all of that into a few words."}
_TOPICS = (
    "the tides", "baking bread", "a long train journey", "bees", "the night sky", "an old harbour", "chess", "glaciers",
    "writing letters", "volcanoes", "a city of bridges", "orchards", "the history of paper", "deserts", "lighthouses",
    "sailing", "the sense of smell", "mountain weather", "clocks", "the first computers",
)  # fmt: skip


def run(device: str, dtype: str, prompts: int, files: Path | None) -> dict[str, Any]:
    """All of it."""
    here = {"SLOWWAVE_DEVICE": "cpu", "SLOWWAVE_DTYPE": "float32"}
    there = {"SLOWWAVE_DEVICE": device, "SLOWWAVE_DTYPE": dtype}
    with tempfile.TemporaryDirectory() as folder:
        a = Server(Path(folder) / "a", environment=here)
        b = Server(Path(folder) / "b", environment=there)
        with (
            a,
            b,
            httpx.Client(base_url=a.url, timeout=600) as first,
            httpx.Client(base_url=b.url, timeout=600) as other,
        ):
            report: dict[str, Any] = {"device": device, "dtype": dtype, "prompts": prompts}
            report["arrived"] = (
                [_taken_in(other, p.read_bytes()) for p in sorted(files.glob("*.slowwave"))] if files else []
            )
            if files is not None:
                for n in range(2):
                    raw = _exported(other, _begun(other, n, turns=1), "lossless")
                    (files / f"made-on-{device}-{n}.slowwave").write_bytes(raw)
            report["there"] = _move(first, other, _all_begun(first, prompts), "there")
            report["back"] = _move(other, first, _all_begun(other, prompts), "back")
            return report


def _all_begun(client: httpx.Client, prompts: int) -> list[str]:
    """Many at a time: nothing of it is timed, and one after the other it took most of the benchmark's time."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda n: _begun(client, n), range(prompts)))


def _begun(client: httpx.Client, n: int, *, turns: int = 3) -> str:
    session = str(
        _call(client, "POST", "/v1/sessions", json={"system": f"You know much about {_TOPICS[n % 20]}."})["id"]
    )
    for turn in range(turns):
        text = f"Tell me something about {_TOPICS[(n + turn) % 20]}, number {n}, and say why it matters to you."
        body = {"content": text, "max_tokens": 120, "temperature": 0, "slowwave": {"recall": False}}
        _call(client, "POST", f"/v1/sessions/{session}/turns", json=body)
    return session


def _move(source: httpx.Client, target: httpx.Client, sessions: list[str], way: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for session in sessions:
        sys.stderr.write(f"\r{way}: {len(rows)} of {len(sessions)} moved ")
        began = time.perf_counter()
        raw = _exported(source, session, "lossless")
        exported = time.perf_counter()
        done = _taken_in(target, raw)
        back = _call(target, "POST", f"/v1/sessions/{done['session']}/resume")
        moved = time.perf_counter()
        one, other = _continued(source, session), _continued(target, done["session"])
        anew = _read_anew(target, _call(source, "GET", f"/v1/sessions/{session}")["transcript"][:-2])
        pairs = list(zip(one["tokens"], other["tokens"], strict=False))
        same = [x == y for x, y in pairs]
        rows.append(
            {
                "how": back["how"],
                "tokens": back["tokens"],
                "bytes": len(raw),
                "kl": back["deviation"],
                "agree": statistics.mean(same),
                "agree_before_first": (same.index(False) if False in same else len(same)) / len(same),
                "export_ms": (exported - began) * 1000,
                "import_and_resume_ms": (moved - exported) * 1000,
                "resume_ms": back["seconds"] * 1000,
                "first_token_after_ms": other["first"],
                "first_token_anew_ms": anew["first"],
            }
        )
    names = [name for name in rows[0] if name != "how" and rows[0][name] is not None]
    return {
        "how": sorted({r["how"] for r in rows}),
        **{name: {"median": statistics.median(r[name] for r in rows), "least": min(r[name] for r in rows),
                  "most": max(r[name] for r in rows)} for name in names},
    }  # fmt: skip


def _read_anew(client: httpx.Client, transcript: list[dict[str, Any]]) -> dict[str, Any]:
    """The same conversation but for its first word, of which nothing is in memory there."""
    messages = [{"role": e["role"], "content": e["content"]} for e in transcript]
    messages[0]["content"] = f"Anew. {messages[0]['content']}"
    return _asked(client, {"messages": [*messages, _LAST], "slowwave": {"recall": False}})


def _continued(client: httpx.Client, session: str) -> dict[str, Any]:
    return _asked(client, {"messages": [_LAST], "slowwave": {"session": session, "recall": False}})


def _asked(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    model = _call(client, "GET", "/v1/models")["data"][0]["id"]
    how = {"model": model, "max_tokens": _REPLY, "temperature": 0, "logprobs": True, "ignore_eos": True}
    done = _call(client, "POST", "/v1/chat/completions", json={**how, **body})
    tokens = [t["token"] for t in done["choices"][0]["logprobs"]["content"]]
    return {"tokens": tokens, "first": done["slowwave"]["timings"]["time_to_first_token_ms"]}


def _exported(client: httpx.Client, session: str, codec: str) -> bytes:
    answer = client.get(f"/v1/sessions/{session}/checkpoint", params={"codec": codec})
    answer.raise_for_status()
    return answer.content


def _taken_in(client: httpx.Client, raw: bytes) -> dict[str, Any]:
    return _call(client, "POST", "/v1/checkpoints", content=raw, headers={"Content-Type": "application/octet-stream"})


def _call(client: httpx.Client, method: str, path: str, **more: Any) -> dict[str, Any]:
    answer = client.request(method, path, **more)
    answer.raise_for_status()
    return dict(answer.json())


def main() -> int:
    """Move, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--files", type=Path)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    report = run(args.device, args.dtype, args.prompts, args.files)
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

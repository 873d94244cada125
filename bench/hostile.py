"""Bodies that nobody should send: what is answered, how fast, and that nothing is stored.

    python -m bench.hostile --json

Every body goes to both surfaces, `--repeats` times; the slowest answer counts. Exit status 1 if one is not a 4xx with a
message, or anything was stored.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import httpx

from bench.server import Server

BODIES = {
    "empty": b"",
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "cut off": b'{"model": "x", "messages": [',
    "10 MB of text": b'{"model": "' + b"x" * (10 << 20) + b'"}',
    "10 MB of nothing": b"\0" * (10 << 20),
    "lists 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a list": b"[]",
    "null": b"null",
    "a lone surrogate": b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
    "NaN": b'{"temperature": NaN}',
    "wrong types": b'{"model": 1, "messages": {"role": []}, "content": {}, "stream": "yes", "seed": 1e999}',
    "a huge number": b'{"content": "x", "model": "scripted", "messages": [{"role": "user", "content": "x"}], "seed": 1'
    + b"0" * 4000
    + b"}",
    "900,000 wrong messages": b'{"model": "scripted", "messages": [' + b"1," * 900_000 + b"1]}",
    "4,000 wrong messages": b'{"model": "scripted", "messages": [' + b"1," * 4000 + b"1]}",
    "4097 messages": json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "x"}] * 4097}).encode(),
}


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder) / "data", model="scripted") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        session = client.post("/v1/sessions").json()["id"]
        for path in ("/v1/chat/completions", f"/v1/sessions/{session}/turns"):
            for name, body in BODIES.items():
                took = []
                for _ in range(args.repeats):
                    began = time.perf_counter()
                    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
                    took.append((time.perf_counter() - began) * 1000)
                said = answer.json().get("error", {}).get("message", "")
                rows.append(
                    {
                        "body": name,
                        "path": path.replace(session, "ID"),
                        "status": answer.status_code,
                        "said": said[:100],
                        "slowest_ms": round(max(took), 1),
                    }
                )
        stored = client.get("/v1/sessions").json()["data"]
    clean = [s["messages"] for s in stored] == [0]
    refused = all(400 <= int(str(row["status"])) < 500 and row["said"] for row in rows)
    slowest = max(float(str(row["slowest_ms"])) for row in rows)
    report = {"slowest_ms": slowest, "nothing_stored": clean, "all_refused": refused, "answers": rows}
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0 if refused and clean else 1


if __name__ == "__main__":
    raise SystemExit(main())

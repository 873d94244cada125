"""The mailbox and the hand-over of tensors, beside what one would take otherwise.

    python -m bench.mailbox --json [--seconds 3] [--batch 256]

Mailbox: four threads that push batches and four that each pop all of them, in one process; records pushed, and records
popped over all readers, a second; what was refused or missed is counted, and nothing else may be lost. Beside it, a
`queue.Queue` for each reader, into which every writer puts the same batches (bounded, so that it waits where it is
full). The records are 64 bytes in both. Tensors: 64 MB, from one process to another that has them when it can index
them, through shared memory, through a pipe, and as a safetensors file. Weights: what the default model's cost a process
that maps them in the dtype it trains in, or reads and converts them. Published for the mailbox that ours follows (GPU,
RTX 4090 laptop): 148,739 pushes and 399,381 pops a second, 360,026 and 31,352 of tensor descriptors.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from agent.mailbox import Mailbox, Records, records
from models.shared_tensors import share, share_files
from models.weights import DEFAULT_MODEL, resolve
from settings import Settings

WRITERS, READERS = 4, 4
ROOM = 1 << 15
MEGABYTES = 64
_CHILD = """
import json, os, sys, time
import torch
from safetensors.torch import load_file
from models.shared_tensors import mapped
for line in sys.stdin:
    said, tensors = json.loads(line), None  # what went before is let go outside the time taken
    began = time.perf_counter()
    tensors = mapped(said) if "fd" in said else load_file(said["file"])
    taken = time.perf_counter() - began
    total = float(tensors["x"][::1024].sum())
    print(json.dumps({"taken": taken, "total": total}), flush=True)
"""

_LOADING = """
import json, sys, time
from pathlib import Path
from models.trainable import Trainable
began = time.perf_counter()
model = Trainable.load(sys.argv[1], name="base", device="cpu", dtype="bfloat16", shared=json.loads(sys.argv[2]))
taken = time.perf_counter() - began
lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
own = sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
print(json.dumps({"seconds": taken, "own_mib": own / 1024}))
"""

_RECEIVING = """
import sys, time
import torch
print("ready", flush=True)
whole = bytearray(int(sys.argv[1]))
sys.stdin.buffer.readinto(whole)
torch.frombuffer(whole, dtype=torch.float32)
print(time.time(), flush=True)
"""


def _threads(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def mailbox(seconds: float, batch: int) -> dict[str, Any]:
    """Ours."""
    box, until = Mailbox(ROOM), threading.Event()
    rows = records(1, np.ones((batch, 8), dtype=np.float32), ttl=60.0, at=time.monotonic())
    pushed, popped, missed = [0] * WRITERS, [0] * READERS, [0] * READERS
    ends, readers = [box.writer(str(n)) for n in range(WRITERS)], [box.reader(str(n)) for n in range(READERS)]

    def write(n: int) -> None:
        while not until.is_set():
            taken = ends[n].push(rows)
            pushed[n] += taken
            if taken < batch:
                time.sleep(0.0005)

    def read(n: int) -> None:
        while True:
            last = until.is_set()
            found = readers[n].wait(0.05, most=ROOM)
            popped[n] += len(found.records)
            missed[n] += found.missed
            if last and not len(found.records):
                return

    threading.Timer(seconds, until.set).start()
    began = time.perf_counter()
    _threads([*(lambda n=n: write(n) for n in range(WRITERS)), *(lambda n=n: read(n) for n in range(READERS))])
    took, counts = time.perf_counter() - began, box.counts()
    return {
        "pushed_a_second": sum(pushed) / took,
        "popped_a_second": sum(popped) / took,
        "refused": counts.refused,
        "missed": sum(missed),
        "lost": sum(pushed) * READERS - sum(popped) - sum(missed),
        "least_share_of_a_writer": min(pushed) / (sum(pushed) / WRITERS),
    }


def queues(seconds: float, batch: int) -> dict[str, Any]:
    """The peer: a queue for each reader."""
    lines: list[queue.Queue[Records | None]] = [queue.Queue(maxsize=ROOM // batch) for _ in range(READERS)]
    rows = records(1, np.ones((batch, 8), dtype=np.float32), ttl=60.0, at=time.monotonic())
    until, pushed, popped = threading.Event(), [0] * WRITERS, [0] * READERS

    def write(n: int) -> None:
        while not until.is_set():
            mine = rows.copy()  # a reader keeps what it gets
            for line in lines:
                line.put(mine.copy())
            pushed[n] += batch

    def read(n: int) -> None:
        while (found := lines[n].get()) is not None:
            popped[n] += len(found)

    def end() -> None:
        until.set()
        for line in lines:
            line.put(None)

    threading.Timer(seconds, end).start()
    began = time.perf_counter()
    _threads([*(lambda n=n: write(n) for n in range(WRITERS)), *(lambda n=n: read(n) for n in range(READERS))])
    took = time.perf_counter() - began
    return {"pushed_a_second": sum(pushed) / took, "popped_a_second": sum(popped) / took}


def tensors(repeats: int) -> dict[str, Any]:
    """From here to another process, milliseconds: medians, and the slowest."""
    x = torch.randn(MEGABYTES * (1 << 20) // 4)
    shared = share({"x": x})
    found: dict[str, list[float]] = {"shared_memory": [], "file": [], "pipe": []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.safetensors"
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
            pass_fds=[shared.fd, *(copies := [os.dup(shared.fd) for _ in range(repeats)])],
        )
        assert child.stdin is not None and child.stdout is not None
        for fd in copies:
            found["shared_memory"].append(_told(child, {**shared.said(), "fd": fd}, x))
        for _ in range(repeats):
            began = time.perf_counter()
            save_file({"x": x}, file)
            written = time.perf_counter() - began
            found["file"].append(1e3 * written + _told(child, {"file": str(file)}, x))
        child.stdin.close()
        child.wait()
        assert torch.equal(load_file(file)["x"], x)
    for fd in copies:
        os.close(fd)
    shared.close()
    for _ in range(repeats):
        found["pipe"].append(_piped(x))
    return {
        "megabytes": MEGABYTES,
        **{how: {"median_ms": statistics.median(ms), "most_ms": max(ms)} for how, ms in found.items()},
    }


def weights(repeats: int) -> dict[str, Any]:
    """The default model's, in bfloat16, in a fresh process: seconds to a model, and MiB of its own; medians."""
    folder = Path(resolve(DEFAULT_MODEL, cache_dir=Settings().cache_dir).location)
    began = time.perf_counter()
    shared = share_files(sorted(folder.glob("*.safetensors")), "bfloat16")
    found: dict[str, Any] = {"seconds_to_share": time.perf_counter() - began}
    for how, said in (("read_from_files", None), ("mapped", shared.said())):
        told = []
        for _ in range(repeats):
            command = [sys.executable, "-c", _LOADING, str(folder), json.dumps(said)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, pass_fds=(shared.fd,))
            told.append(json.loads(done.stdout.splitlines()[-1]))
        found[how] = {name: statistics.median(t[name] for t in told) for name in told[0]}
    shared.close()
    return found


def _told(child: Any, said: dict[str, Any], x: torch.Tensor) -> float:
    child.stdin.write(json.dumps(said) + "\n")
    child.stdin.flush()
    answer = json.loads(child.stdout.readline())
    assert abs(answer["total"] - float(x[::1024].sum())) < 1e-3 * len(x)
    return 1e3 * float(answer["taken"])


def _piped(x: torch.Tensor) -> float:
    command = [sys.executable, "-c", _RECEIVING, str(x.nbytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()  # it is there
        began = time.time()
        child.stdin.write(x.numpy().tobytes())
        child.stdin.flush()
        return 1e3 * (float(child.stdout.readline()) - began)


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    runs = [(mailbox(args.seconds, args.batch), queues(args.seconds, args.batch)) for _ in range(args.repeats)]
    ours, peer = zip(*runs, strict=True)
    done: dict[str, Any] = {"writers": WRITERS, "readers": READERS, "batch": args.batch, "runs": len(runs)}
    for name, found in (("mailbox", ours), ("queue", peer)):
        done[name] = {k: statistics.median(r[k] for r in found) for k in found[0]}
        done[name]["pushed_spread"] = [
            min(r["pushed_a_second"] for r in found),
            max(r["pushed_a_second"] for r in found),
        ]
    done["ratio_pushed"] = done["mailbox"]["pushed_a_second"] / done["queue"]["pushed_a_second"]
    done |= {"tensors": tensors(args.repeats), "weights": weights(args.repeats)}
    sys.stdout.write(json.dumps(done, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Corpora split by document, and runs that a kill at any moment does not change."""

from __future__ import annotations

import json
import lzma
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from models import pretraining
from models.corpus import Corpus, build, open_corpus, starts
from models.errors import CorpusRefused, RunRefused
from models.health import alarms
from models.networks import network, trained
from models.pretraining import Measured, Plan, Training, failed_gate, locked, read_curve, run, write_plan

SHAPE = {"width": 16, "layers": 1, "oscillators": 16, "harmonics": 2, "scales": [2, 16], "choirs": 2, "inner": 16}
WORDS = "the sea takes the sand and the wind takes the sea back to where the sand was ".split()


def text(seed: int, words: int = 400) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Corpus]:
    source = tmp_path_factory.mktemp("text")
    for n in range(12):
        (source / f"{n}.txt").write_text(text(n))
    folder = tmp_path_factory.mktemp("made") / "corpus"
    build(source, folder, tokenizer=None, share=0.3)
    return folder, open_corpus(folder)


def plan(corpus: Corpus, **changed: object) -> Plan:
    base = Plan(
        kind="kssm",
        shape={**SHAPE, "dropout": 0.1},
        corpus={str(k): v for k, v in corpus.facts.digests.items()},
        steps=24,
        batch=4,
        context=32,
        warmup=2,
        evaluate_every=8,
        save_every=4,
        held_windows=4,
    )
    return replace(base, **changed)  # type: ignore[arg-type]


def training(of: Plan, corpus: Corpus, folder: Path | None) -> Training:
    return Training(of, network("kssm", of.shape, corpus.facts.vocab_size, seed=of.seed), corpus, folder)


def reached(one: Training, step: int) -> bool:
    return one.step >= step


def losses(folder: Path) -> list[tuple[int, float, float | None]]:
    return [(p["step"], p["loss"], p["held"]) for p in read_curve(folder)]


def test_documents_are_on_one_side_of_the_split_alone_and_doubles_go(tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    (source / "train.jsonl").write_text("\n".join(json.dumps({"text": text(n)}) for n in (1, 2, 2, 3)))
    with lzma.open(source / "val.jsonl.xz", "wt") as file:
        file.write("\n".join(json.dumps({"text": text(n)}) for n in (3, 4)))
    made = build(source, tmp_path / "c", tokenizer=None)
    assert made.documents == {"train": 2, "held": 2}
    assert made.twice == 2
    assert made.split == "by the files' names"
    found = open_corpus(tmp_path / "c")
    spelled = "".join(found.facts.symbols[n] for n in found.held)
    assert spelled == text(3) + text(4)
    with pytest.raises(CorpusRefused, match="already"):
        build(source, tmp_path / "c", tokenizer=None)


def test_a_corpus_that_is_not_whole_is_refused(tmp_path: Path, corpus: tuple[Path, Corpus]) -> None:
    with pytest.raises(CorpusRefused, match="no corpus"):
        open_corpus(tmp_path)
    for name in ("corpus.json", "train.tokens", "held.tokens"):
        (tmp_path / name).write_bytes((corpus[0] / name).read_bytes())
    (tmp_path / "held.tokens").write_bytes(b"12")
    with pytest.raises(CorpusRefused, match="not as it was built"):
        open_corpus(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusRefused, match="no text"):
        build(tmp_path / "empty", tmp_path / "out", tokenizer=None)


def test_an_epoch_passes_over_everything_once() -> None:
    tokens, context, batch = 5003, 16, 7
    windows = (tokens - 1) // context - 1
    seen = [s for step in range(windows) for s in starts(tokens, context, batch, step, seed=1)]
    for epoch in range(batch):
        part = sorted(seen[epoch * windows : (epoch + 1) * windows])
        assert np.unique(np.diff(part)).tolist() == [context]
        assert part[-1] + context + 1 <= tokens
    assert seen[:windows] != seen[windows : 2 * windows]


def test_a_run_that_was_cut_off_has_the_curve_of_one_that_was_not(tmp_path: Path, corpus: tuple[Path, Corpus]) -> None:
    of = plan(corpus[1])
    run(training(of, corpus[1], tmp_path / "whole"), gates=False, point_every=3)
    for cut in (1, 9, 17):
        folder = tmp_path / f"cut-{cut}"
        first = training(of, corpus[1], folder)
        outcome, _ = run(first, gates=False, point_every=3, stopping=partial(reached, first, cut))
        assert outcome == "stopped"
        again = training(of, corpus[1], folder)
        assert again.resume()
        assert again.step == cut
        run(again, gates=False, point_every=3)
        assert losses(folder) == losses(tmp_path / "whole")
        for name, p in again.network.named_parameters():
            assert torch.equal(p, dict(trained_of(tmp_path / "whole", of, corpus[1]).named_parameters())[name])


def trained_of(folder: Path, of: Plan, corpus: Corpus) -> torch.nn.Module:
    last = training(of, corpus, folder)
    assert last.resume()
    return last.network  # type: ignore[no-any-return]


def test_a_broken_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path, corpus: tuple[Path, Corpus]) -> None:
    of = plan(corpus[1])
    run(training(of, corpus[1], tmp_path / "whole"), gates=False)
    run(training(replace(of, steps=24), corpus[1], tmp_path / "r"), gates=False)
    newest = max((tmp_path / "r" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    again = training(of, corpus[1], tmp_path / "r")
    assert again.resume()
    assert again.step == 20
    run(again, gates=False)
    assert losses(tmp_path / "r") == losses(tmp_path / "whole")
    assert len(list((tmp_path / "r" / "checkpoints").iterdir())) == 3


def test_a_step_whose_numbers_left_the_field_is_not_taken(corpus: tuple[Path, Corpus]) -> None:
    one = training(plan(corpus[1]), corpus[1], None)
    one.advance()
    with torch.no_grad():
        one.network.embedding[0, 0] = float("nan")
    before = {n: p.clone() for n, p in one.network.named_parameters()}
    one.advance()
    for name, p in one.network.named_parameters():
        if name != "embedding":
            assert bool(p.isfinite().all())
            torch.testing.assert_close(p, before[name], rtol=0.05, atol=0.01)
    outcome, why = run(one, gates=False, point_every=1)
    assert outcome == "diverged"
    assert "no number" in why


def test_a_gradient_that_is_no_number_ends_a_run_whose_loss_is_one(corpus: tuple[Path, Corpus]) -> None:
    one = training(plan(corpus[1]), corpus[1], None)
    one.network.sharpness.register_hook(lambda gradient: gradient * float("nan"))
    outcome, why = run(one, gates=False, point_every=1)
    assert outcome == "diverged"
    assert "gradient" in why


def test_gates_stop_a_run_that_learns_nothing(tmp_path: Path, corpus: tuple[Path, Corpus]) -> None:
    def point(step: int, held: float) -> Measured:
        return Measured(step=step, loss=held, held=held, gradient=1, learning_rate=1, tokens_per_second=1, told={})

    assert failed_gate(point(100, 4.17), 0, 65) is not None
    assert failed_gate(point(100, 4.0), 0, 65) is None
    assert failed_gate(point(500, 2.6), 250, 65) is not None
    assert failed_gate(point(510, 2.6), 505, 65) is None
    still = plan(corpus[1], steps=120, learning_rate=1e-9, evaluate_every=100)
    outcome, why = run(training(still, corpus[1], tmp_path / "g"))
    assert outcome == "gate"
    assert "gate 100" in why


def test_alarms_name_a_cause_and_close() -> None:
    def point(step: int, loss: float, gradient: float = 2.0, held: float | None = None) -> Measured:
        return Measured(
            step=step, loss=loss, held=held, gradient=gradient, learning_rate=1, tokens_per_second=1, told={}
        )

    rising = [point(n, 2 + n / 10) for n in range(6)]
    assert any("risen" in a for a in alarms(rising))
    assert alarms([*rising, point(7, 1.0)]) == []
    assert any("exploding" in a for a in alarms([point(1, 2, gradient=900)]))
    assert any("by heart" in a for a in alarms([point(n, 1, held=h) for n, h in enumerate((2.0, 2.2, 2.3, 2.4))]))


def test_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RunRefused, match="another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_what_cannot_be_is_refused(tmp_path: Path, corpus: tuple[Path, Corpus]) -> None:
    with pytest.raises(RunRefused, match="no network named"):
        network("bigram", {}, 10)
    with pytest.raises(RunRefused, match="has no colour"):
        network("kssm", {"colour": 1}, 10)
    with pytest.raises(RunRefused, match="cannot have these sizes"):
        network("kssm", {**SHAPE, "scales": [3, 16]}, 10)
    with pytest.raises(RunRefused, match="another corpus"):
        training(replace(plan(corpus[1]), corpus={"train": "x"}), corpus[1], None)
    write_plan(tmp_path, plan(corpus[1]))
    with pytest.raises(RunRefused, match="already"):
        write_plan(tmp_path, plan(corpus[1]))
    with pytest.raises(RunRefused, match="no weights"):
        trained(tmp_path)


def cli(*args: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli", "train", *args]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_run_killed_again_and_again_ends_with_the_same_curve(tmp_path: Path, corpus: tuple[Path, Corpus]) -> None:
    """By the command line, with SIGKILL at random moments, then SIGTERM, which saves."""
    shape = [part for name, value in SHAPE.items() for part in ("--shape", f"{name}={json.dumps(value)}")]
    options = ["--corpus", str(corpus[0]), "--json", "--no-gates"]
    sizes = [*shape, "--steps", "300", "--batch", "2", "--context", "16"]
    whole = cli("kssm", str(tmp_path / "whole"), *options, *sizes)
    assert whole.wait(120) == 0
    chance, folder = random.Random(5), tmp_path / "killed"
    process = cli("kssm", str(folder), *options, *sizes)
    for kill in range(3):
        deadline = time.monotonic() + 60
        begun = len(read_curve(folder))
        while len(read_curve(folder)) <= begun and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGTERM if kill == 2 else signal.SIGKILL)
        code = process.wait(60)
        assert code == -signal.SIGKILL if kill < 2 else code in (0, 1, 130)
        again = ("kssm", str(folder), *options, *sizes, "--resume")
        process = cli(*again) if kill == 0 else cli("continue", str(folder), *options)
    process.wait(120)
    assert losses(folder) == losses(tmp_path / "whole")


def test_two_processes_share_a_batch(tmp_path: Path, corpus: tuple[Path, Corpus]) -> None:
    """Through torch's own launcher: the gradients are those of one process, but for their rounding."""
    shape = [part for name, value in SHAPE.items() for part in ("--shape", f"{name}={json.dumps(value)}")]
    options = ["--corpus", str(corpus[0]), "--json", "--no-gates", *shape, "--steps", "20", "--batch", "4"]
    alone = cli("kssm", str(tmp_path / "one"), *options, "--context", "16")
    assert alone.wait(120) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cli"]
    done = subprocess.run(
        [*command, "train", "kssm", str(tmp_path / "two"), *options, "--context", "16"],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [p[0] for p in one] == [p[0] for p in two]
    assert two[-1][1] == pytest.approx(one[-1][1], abs=2e-3)


def test_a_learning_rate_rises_and_falls(corpus: tuple[Path, Corpus]) -> None:
    of = plan(corpus[1], steps=100, warmup=10, learning_rate=1.0)
    rates = [of.learning_rate_at(n) for n in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert pretraining.GATES[0].step == 100

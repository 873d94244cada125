"""`slowwave train` and `slowwave causality`: networks trained from nothing here, and what their order causes.

These work on folders and ask no service.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from commands.terminal import FAILED, INTERRUPTED, Failure, Json, err, out, print_json

if TYPE_CHECKING:
    from models.pretraining import Measured, Plan

app = typer.Typer(name="train", help="Train a network from nothing: a corpus first, then a run.", no_args_is_help=True)

Run = Annotated[Path, typer.Argument(help="The run's folder.")]
CorpusFolder = Annotated[Path, typer.Option("--corpus", help="What `slowwave train corpus` made.")]
Steps = Annotated[int, typer.Option("--steps", min=1)]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Windows a step, over all processes.")]
Context = Annotated[int, typer.Option("--context", min=2, help="Tokens in a window.")]
Rate = Annotated[float, typer.Option("--learning-rate")]
Seed = Annotated[int, typer.Option("--seed")]
Size = Annotated[str, typer.Option("--size", help="small (200,000 parameters), large (46 million).")]
Shape = Annotated[list[str] | None, typer.Option("--shape", help="Another size, as NAME=VALUE. May be repeated.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run, by its own plan, if there is one.")]
NoGates = Annotated[bool, typer.Option("--no-gates", help="Go on, however little was learnt by a gate.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda; by default cuda where there is one.")]


@app.command("corpus")
def corpus(
    source: Annotated[Path, typer.Argument(help="A file or folder: .txt, .md, .jsonl (.xz), each line's `text`.")],
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    characters: Annotated[bool, typer.Option("--characters", help="Its characters are its tokens.")] = False,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="A tokenizer.json; by default the default model's.")
    ] = None,
    held_out: Annotated[float, typer.Option("--held-out", min=0.001, max=0.5, help="A part of the documents.")] = 0.1,
    json_output: Json = False,
) -> None:
    """Make a corpus of text: split by document, then tokenised into files that training maps into memory."""
    from models import corpus as corpora
    from models.errors import ModelError

    with _refusals(ModelError), Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=err, disable=json_output
    ) as shown:  # fmt: skip
        task = shown.add_task("reading")

        def on_document(documents: int, tokens: int) -> None:
            shown.update(task, description=f"{documents:,} documents, {tokens:,} tokens of this part")

        made = corpora.build(
            source,
            target,
            tokenizer=None if characters else tokenizer or _default_tokenizer(),
            share=held_out,
            on_document=on_document,
        )
    told = {
        "vocab_size": made.vocab_size,
        "split": made.split,
        "documents": made.documents,
        "tokens": made.tokens,
        "twice": made.twice,
    }
    if json_output:
        print_json(told)
        return
    out.print(
        f"{target}: {made.tokens['train']:,} tokens of {made.documents['train']} documents to train on, "
        f"{made.tokens['held']:,} of {made.documents['held']} held out, split {made.split}; "
        f"{made.vocab_size:,} different tokens"
    )


def _trains(kind: str, says: str) -> None:
    """A command that begins a run of one kind of network."""

    def command(
        run: Run,
        corpus: CorpusFolder,
        steps: Steps = 2000,
        batch: Batch = 32,
        context: Context = 128,
        learning_rate: Rate = 1e-3,
        size: Size = "small",
        shape: Shape = None,
        seed: Seed = 0,
        resume: Resume = False,
        no_gates: NoGates = False,
        device: Device = None,
        json_output: Json = False,
    ) -> None:
        given = {"steps": steps, "batch": batch, "context": context, "learning_rate": learning_rate, "seed": seed}
        options = {"resume": resume, "gates": not no_gates, "device": device, "json_output": json_output}
        _begin(kind, run, corpus, given, size, shape, **options)  # type: ignore[arg-type]

    app.command(kind, help=says)(command)


_trains("kssm", "Train a K-SSM: coupled oscillators, read through their order parameters alone.")
_trains("spiralformer", "Train a Spiralformer: it looks back by powers of two, and recalls the rest by resonance.")
_trains("gpt", "Train a transformer of the same size, to measure the others by.")


@app.command("continue")
def continue_(
    run: Run,
    corpus: CorpusFolder,
    no_gates: NoGates = False,
    device: Device = None,
    json_output: Json = False,
) -> None:
    """Go on with a run from its last checkpoint: its curve is that of a run never stopped."""
    from models.errors import ModelError
    from models.pretraining import read_plan

    with _refusals(ModelError):
        plan = read_plan(run)
    _train(run, corpus, plan, resumed=True, gates=not no_gates, device=device, json_output=json_output)


def causality(
    run: Run,
    corpus: CorpusFolder,
    windows: Annotated[int, typer.Option("--windows", min=30, help="Of held-out text.")] = 48,
    json_output: Json = False,
) -> None:
    """Does the order parameter of a trained network matter, and is it of what was read? Five tests."""
    import torch

    from models.corpus import open_corpus
    from models.errors import ModelError
    from models.networks import trained
    from models.order_tests import examine, visited
    from models.pretraining import read_curve

    with _refusals(ModelError):
        network, plan = trained(run)
        if plan.kind != "kssm":
            raise Failure(f"a {plan.kind} has no order parameter to be asked about")
        from models.kssm import Looked

        found = open_corpus(corpus)
        whole = (len(found.held) - 1) // plan.context
        chosen = [n * whole // windows * plan.context for n in range(windows)]
        ids = torch.from_numpy(found.window(chosen, plan.context, "held"))
        told = [p["told"] for p in read_curve(run) if "R" in p["told"] and p["step"] > plan.warmup]
        with err.status("reading held-out text with and without its order forced", spinner="dots"):
            findings = examine(Looked(network), ids, [(t["R"], t["R_std"]) for t in told])
            with torch.no_grad():
                zones = visited(torch.cat([Looked(network).order(part) for part in torch.split(ids, 8)]))
    if json_output:
        tests = [{"test": f.test, "passed": f.passed, "bar": f.bar, **f.figures} for f in findings]
        print_json({"passed": all(f.passed for f in findings), "tests": tests, "zones": zones})
    else:
        table = Table("test", "", "figures", "wanted")
        for f in findings:
            figures = "\n".join(f"{name} {_short(value)}" for name, value in f.figures.items())
            table.add_row(f.test, "[green]passed[/green]" if f.passed else "[red]failed[/red]", figures, f.bar)
        out.print(table)
        out.print("zones: " + ", ".join(f"{name} {share:.0%}" for name, share in zones.items()))
    if not all(f.passed for f in findings):
        raise typer.Exit(FAILED)


def _begin(
    kind: str,
    run: Path,
    corpus: Path,
    given: dict[str, Any],
    size: str,
    shape: list[str] | None,
    *,
    resume: bool,
    gates: bool,
    device: str | None,
    json_output: bool,
) -> None:
    from models.corpus import carry_vocabulary, open_corpus
    from models.errors import ModelError
    from models.networks import SHAPES, network
    from models.pretraining import PLAN, Plan, write_plan

    if resume and (run / PLAN).exists():
        continue_(run, corpus, no_gates=not gates, device=device, json_output=json_output)
        return
    if size not in SHAPES[kind]:
        raise Failure(f"there is no size {size}; there are {', '.join(SHAPES[kind])}")
    with _refusals(ModelError):
        facts = open_corpus(corpus).facts
        sizes = {**SHAPES[kind][size], **_shape(shape)}
        network(kind, sizes, facts.vocab_size)
        every = max(10, given["steps"] // 40)
        plan = Plan(
            kind=kind,
            shape=sizes,
            corpus={str(part): digest for part, digest in facts.digests.items()},
            precision="bfloat16" if _device(device).startswith("cuda") else "float32",
            warmup=max(1, min(400, given["steps"] // 20)),
            evaluate_every=every,
            save_every=every,
            **given,
        )
        if _rank() == 0:
            write_plan(run, plan)
            carry_vocabulary(corpus, run)
    _train(run, corpus, plan, resumed=False, gates=gates, device=device, json_output=json_output)


def _train(
    run: Path, corpus: Path, plan: Plan, *, resumed: bool, gates: bool, device: str | None, json_output: bool
) -> None:
    import torch

    from models import pretraining
    from models.corpus import open_corpus
    from models.errors import ModelError
    from models.networks import network

    torch.set_float32_matmul_precision("high")
    where = _device(device)
    first = _rank() == 0
    with _refusals(ModelError), _together(where), pretraining.locked(run) if first else _nothing():
        text = open_corpus(corpus)
        made = network(plan.kind, plan.shape, text.facts.vocab_size, seed=plan.seed)
        training = pretraining.Training(plan, made, text, run, device=where, compiled=where.startswith("cuda"))
        if resumed and not training.resume() and first:
            err.print("no checkpoint yet: from the beginning")
        if training.step >= plan.steps:
            raise Failure(f"this run is over: it took its {plan.steps} steps")
        stop = _Stop()
        with stop, _dashboard(plan, training, shown=first and not json_output) as seen:

            def on_point(point: Measured) -> None:
                if first and json_output:
                    sys.stdout.write(json.dumps(_told(point)) + "\n")
                    sys.stdout.flush()
                seen(point)

            outcome, why = pretraining.run(
                training,
                on_point=on_point,
                stopping=stop.asked,
                describe=_describer(plan, text, where),
                gates=gates,
                point_every=max(1, plan.save_every // 5),
            )
    if not first:
        return
    if json_output:
        told = {"outcome": outcome, "why": why, "step": training.step}
        best = training.best if math.isfinite(training.best) else None
        sys.stdout.write(json.dumps({**told, "best": best}) + "\n")
    else:
        found = (
            f"best held loss {training.best:.4f} nats a token" if math.isfinite(training.best) else "not examined yet"
        )
        out.print(f"{outcome}: {why}; {found}")
    if outcome == "stopped":
        err.print(f"`slowwave train continue {run} --corpus {corpus}` goes on")
        raise typer.Exit(INTERRUPTED)
    if outcome != "done":
        raise typer.Exit(FAILED)


def _told(point: Measured) -> dict[str, Any]:
    return {
        "step": point.step,
        "loss": point.loss,
        "held": point.held,
        "perplexity": point.perplexity,
        "gradient": point.gradient,
        "learning_rate": point.learning_rate,
        "tokens_per_second": point.tokens_per_second,
        **point.told,
    }


def _describer(plan: Plan, text: Any, where: str) -> Any:
    """What a network has to say of itself at an evaluation."""
    if plan.kind != "kssm":
        return lambda network: {}
    import torch

    from models.kssm import Looked
    from models.order_tests import visited

    whole = (len(text.held) - 1) // plan.context
    rows = text.window([n * whole // 8 * plan.context for n in range(8)], plan.context, "held")
    ids = torch.from_numpy(rows).to(where)

    def describe(network: Any) -> dict[str, float]:
        with torch.no_grad():
            r = Looked(network).order(ids).float()
        return {"R": float(r.mean()), "R_std": float(r.std(1).mean()), "zones": float(len(visited(r)))}

    return describe


@contextmanager
def _dashboard(plan: Plan, training: Any, *, shown: bool) -> Iterator[Any]:
    """A live view of the run's last point; called with each."""
    if not shown:
        yield lambda point: None
        return
    from rich.console import Group
    from rich.live import Live

    from models.health import alarms, gradient_zone

    parameters = sum(p.numel() for p in training.network.parameters())
    peak = _peak(training.device)
    bar = Progress(TextColumn("step {task.completed:,} of {task.total:,}"), BarColumn(), TimeRemainingColumn())
    task = bar.add_task("", total=plan.steps, completed=training.step)
    points: list[Any] = []

    def view() -> Any:
        if not points:
            return Group(bar, "…")
        last = points[-1]
        held = next((p for p in reversed(points) if p.held is not None), None)
        table = Table.grid(padding=(0, 2))
        table.add_row("loss", f"{last.loss:.4f}")
        if held is not None:
            table.add_row("held", f"{held.held:.4f} (perplexity {held.perplexity:.1f}), best {training.best:.4f}")
        if held is not None and "R" in held.told:
            told = held.told
            table.add_row("R", f"{told['R']:.3f} ± {told['R_std']:.3f}, {told['zones']:.0f} zones visited")
        table.add_row("gradient", f"{last.gradient:.3g} {gradient_zone(last.gradient)}")
        share = 6 * parameters * last.tokens_per_second / peak
        table.add_row("speed", f"{last.tokens_per_second:,.0f} tokens/s, {share:.0%} of what products do here")
        for alarm in alarms(points):
            table.add_row("[yellow]alarm[/yellow]", alarm)
        return Group(bar, table)

    with Live(view(), console=err, refresh_per_second=4) as live:

        def seen(point: Any) -> None:
            points.append(point)
            bar.update(task, completed=point.step)
            live.update(view())

        yield seen


def _peak(device: Any) -> float:
    """Operations a second of a large matrix product here, in the numbers that training multiplies."""
    import time

    import torch

    gpu = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if gpu else (1024, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(4):
        began = time.perf_counter()
        a @ a
        if gpu:
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


class _Stop:
    """Ctrl-C and SIGTERM ask the run to save and stop; a second one ends it where it is."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def asked(self) -> bool:
        return self._asked

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        err.print("saving, then stopping; once more to stop at once")


@contextmanager
def _refusals(*kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise Failure(str(error)) from error


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _together(where: str) -> Iterator[None]:
    """Where torch's launcher started several processes: one group of them."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    torch.distributed.init_process_group("nccl" if where.startswith("cuda") else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _device(asked: str | None) -> str:
    import torch

    if asked is not None and asked not in ("cpu", "cuda"):
        raise Failure("--device is cpu or cuda")
    if asked == "cpu" or not torch.cuda.is_available():
        if asked == "cuda":
            raise Failure("there is no CUDA device here, or this torch is built without")
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _shape(given: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in given or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise Failure(f"--shape {item}: write NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _default_tokenizer() -> Path:
    from models.errors import WeightsNotFound
    from models.weights import resolve
    from settings import Settings

    settings = Settings()
    folder = Path(resolve(settings.model, cache_dir=settings.cache_dir).location)
    if not (folder / "tokenizer.json").is_file():
        raise WeightsNotFound("the default model's tokenizer is not here; name one with --tokenizer, or --characters")
    return folder / "tokenizer.json"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    return str(value)

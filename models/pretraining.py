"""How a whole network is trained from nothing: the loop, its gates, and what lies on disk of a run.

A step's data, learning rate and dropout follow from its number and the run's seed alone, so a run that was cut off at
any moment goes on from its last checkpoint with the curve that it would have had: what is kept is weights, the
optimiser's moments and the number. Each checkpoint is one safetensors file, written beside and moved into place.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.corpus import Corpus, Part, starts
from models.errors import RunRefused
from models.whole_files import write_text

PLAN, CURVE, LOCK, CHECKPOINTS, BEST = "plan.json", "curve.jsonl", "lock", "checkpoints", "best.safetensors"
_KEPT = 3
"""Checkpoints kept beside the best."""
Outcome = Literal["done", "stopped", "gate", "diverged"]


class Network(Protocol):
    """What can be trained here: token ids [rows, time] to logits [rows, time, vocab], each from those before alone."""

    def __call__(self, token_ids: Tensor) -> Tensor: ...
    def undecayed(self) -> frozenset[str]: ...
    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...
    def parameters(self) -> Iterator[torch.nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, tensors: Mapping[str, Any]) -> Any: ...
    def train(self, mode: bool = True) -> Any: ...
    def to(self, device: Any) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that decides a run's curve."""

    kind: str
    """Of network: kssm, spiralformer, gpt."""
    shape: dict[str, Any]
    corpus: dict[str, str]
    """Digest of each part of the corpus."""
    steps: int = 10_000
    batch: int = 32
    """Windows a step, over all processes."""
    context: int = 512
    learning_rate: float = 1e-3
    lowest: float = 0.1
    """The learning rate at the end, as a part of the highest: a cosine between (Loshchilov and Hutter 2017)."""
    warmup: int = 100
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    evaluate_every: int = 250
    held_windows: int = 128
    """Windows of the held part that an evaluation on the way reads; the last one reads all of it."""
    save_every: int = 250

    def learning_rate_at(self, step: int) -> float:
        """Of the step with this number, from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (self.lowest + (1 - self.lowest) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One point of a curve."""

    step: int
    loss: float
    """Training loss since the point before, nats a token."""
    held: float | None = None
    """Loss on the held part, where it was evaluated."""
    gradient: float
    """Norm before clipping, of the last step."""
    learning_rate: float
    tokens_per_second: float
    told: dict[str, float]
    """What the network has to say of itself: R, and the like."""

    @property
    def perplexity(self) -> float | None:
        """exp of the held loss."""
        return None if self.held is None else math.exp(min(self.held, 50.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a run must have reached by a step, or it is stopped."""

    step: int
    share: float
    """The held loss at most this part of ln(vocabulary): what knowing nothing costs."""


GATES = (
    Gate(step=100, share=0.99),
    Gate(step=500, share=0.60),
    Gate(step=1500, share=0.54),
    Gate(step=5000, share=0.50),
    Gate(step=10_000, share=0.49),
)
"""The published run's bars of perplexity (1,000, 500, 300 of a vocabulary of 100,277), for any vocabulary."""


def failed_gate(point: Measured, before: int, vocab_size: int) -> str | None:
    """Why a run must stop at this evaluation (the one before was at `before`), in words; None: it may go on."""
    if point.held is None:
        return None
    for gate in GATES:
        bar = gate.share * math.log(vocab_size)
        if before < gate.step <= point.step and not point.held <= bar:
            return f"at step {point.step} the held loss is {point.held:.3f}; gate {gate.step} wants {bar:.3f} at most"
    return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder alone, for as long as this process lives: the kernel lets go when it dies.

    Raises:
        RunRefused: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunRefused(f"another process is training in {folder}") from error
        yield


class Training:
    """One run: a network, where it is trained, and how far it has come."""

    def __init__(
        self,
        plan: Plan,
        network: Any,
        corpus: Corpus,
        folder: Path | None,
        *,
        device: str = "cpu",
        compiled: bool = False,
    ) -> None:
        if dict(corpus.facts.digests) != plan.corpus:
            raise RunRefused("this run was begun with another corpus")
        self.plan, self.corpus, self.folder, self.device = plan, corpus, folder, torch.device(device)
        self.network: Any = network.to(self.device)
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if plan.batch % self.world:
            raise RunRefused(f"a batch of {plan.batch} cannot be shared by {self.world} processes")
        kept_whole = self.network.undecayed()
        named = dict(self.network.named_parameters())
        groups = [
            {"params": [p for name, p in named.items() if name not in kept_whole], "weight_decay": plan.weight_decay},
            {"params": [p for name, p in named.items() if name in kept_whole], "weight_decay": 0.0},
        ]
        self._order = [*(n for n in named if n not in kept_whole), *(n for n in named if n in kept_whole)]
        self._named = named
        self._optimizer = torch.optim.AdamW(
            groups, lr=plan.learning_rate, betas=plan.betas, fused=self.device.type == "cuda"
        )
        self._loss: Any = torch.compile(self._loss_of) if compiled else self._loss_of
        self.step = 0
        self.best = math.inf
        self._since: list[Tensor] = []
        self._clock = (time.perf_counter(), 0)
        self._gradient: Tensor = torch.zeros(())

    def _loss_of(self, ids: Tensor) -> Tensor:
        with self._precision():
            logits = self.network(ids[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        if self.network.training and hasattr(self.network, "penalty"):
            loss = loss + self.network.penalty
        return loss

    def _precision(self) -> Any:
        if self.plan.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def windows(self, step: int) -> Tensor:
        """This process's share of a step's tokens: int64 [batch / processes, context + 1]."""
        plan = self.plan
        own = starts(len(self.corpus.train), plan.context, plan.batch, step, seed=plan.seed)[self.rank :: self.world]
        found = torch.from_numpy(self.corpus.window(own, plan.context + 1))
        return found.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else found

    def advance(self) -> None:
        """One step."""
        plan = self.plan
        self.network.train()
        torch.manual_seed((plan.seed * 1_000_003 + self.step) * 97 + self.rank)
        for group in self._optimizer.param_groups:
            group["lr"] = plan.learning_rate_at(self.step)
        loss = self._loss(self.windows(self.step))
        loss.backward()
        if self.world > 1:
            _average([p.grad for p in self.network.parameters() if p.grad is not None], self.world)
        self._gradient = torch.nn.utils.clip_grad_norm_(self.network.parameters(), plan.clip)
        # A step whose numbers have left the field is not taken; decided where the numbers are, so nothing waits for it.
        finite = torch.isfinite(self._gradient)
        for p in self.network.parameters():
            if p.grad is not None:
                p.grad.mul_(finite).nan_to_num_(0.0, 0.0, 0.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._since.append(loss.detach())
        self.step += 1

    def point(self, *, told: dict[str, float] | None = None, held: float | None = None) -> Measured:
        """The curve's next point, of the steps since the one before."""
        losses = torch.stack(self._since).float() if self._since else torch.full((1,), math.nan)
        mean = losses.mean()
        if self.world > 1:
            torch.distributed.all_reduce(mean)
            mean /= self.world
        now = time.perf_counter()
        tokens = (self.step - self._clock[1]) * self.plan.batch * self.plan.context
        rate = tokens / max(1e-9, now - self._clock[0])
        self._since = []
        return Measured(
            step=self.step,
            loss=float(mean),
            held=held,
            gradient=float(self._gradient),
            learning_rate=self.plan.learning_rate_at(max(0, self.step - 1)),
            tokens_per_second=rate,
            told=told or {},
        )

    def restart_clock(self) -> None:
        """Time from now on: what was done in between was no training."""
        self._clock = (time.perf_counter(), self.step)

    @torch.no_grad()
    def held_loss(self, windows: int | None = None, *, part: Part = "held") -> float:
        """Nats a token on the held part: of so many windows spread over it; None: of all of it, end to end."""
        plan, tokens = self.plan, self.corpus.held if part == "held" else self.corpus.train
        whole = (len(tokens) - 1) // plan.context
        take = range(whole) if windows is None or windows >= whole else [n * whole // windows for n in range(windows)]
        self.network.train(False)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        rows = max(1, plan.batch // self.world)
        for first in range(0, len(take), rows):
            chosen = [n * plan.context for n in take[first : first + rows]]
            ids = torch.from_numpy(self.corpus.window(chosen, plan.context + 1, part)).to(self.device)
            total += self._loss_of(ids).double() * len(chosen)
        return float(total) / len(take)

    def save(self) -> None:
        """A checkpoint of now; the oldest beyond those to keep goes."""
        if self.folder is None or self.rank:
            return
        at = self.folder / CHECKPOINTS
        at.mkdir(parents=True, exist_ok=True)
        _write_tensors(at / f"step-{self.step:07d}.safetensors", self._tensors(moments=True), self._told())
        for old in sorted(at.glob("step-*.safetensors"))[:-_KEPT]:
            old.unlink()

    def save_best(self, held: float) -> bool:
        """Keep these weights if none were better on the held part."""
        if not held < self.best:
            return False
        self.best = held
        if self.folder is not None and not self.rank:
            _write_tensors(self.folder / BEST, self._tensors(moments=False), self._told())
        return True

    def resume(self) -> bool:
        """Go on from the newest checkpoint that is whole; False: there is none.

        Raises:
            RunRefused: there are some, and none is whole.
        """
        assert self.folder is not None
        files = sorted((self.folder / CHECKPOINTS).glob("step-*.safetensors"), reverse=True)
        for file in files:
            try:
                with safe_open(file, "pt") as opened:
                    told = dict(opened.metadata() or {})
                    tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                self._fill(tensors)
                self._since = [torch.tensor(loss, device=self.device) for loss in json.loads(told["since"])]
                self.step, self.best = int(told["step"]), float(told["best"])
            except (SafetensorError, OSError, KeyError, ValueError, RuntimeError):
                continue
            self.restart_clock()
            return True
        if files:
            raise RunRefused(f"no checkpoint in {self.folder / CHECKPOINTS} is whole, or of this shape")
        return False

    def _told(self) -> dict[str, str]:
        since = json.dumps([float(loss) for loss in self._since])
        return {"step": str(self.step), "best": repr(self.best), "since": since, "plan": json.dumps(asdict(self.plan))}

    def _tensors(self, *, moments: bool) -> dict[str, Tensor]:
        found = {f"weights.{name}": p.detach() for name, p in self._named.items()}
        if moments:
            for name in self._order:
                for key, value in self._optimizer.state.get(self._named[name], {}).items():
                    found[f"{key}.{name}"] = torch.as_tensor(value).detach()
        return {name: tensor.cpu().contiguous() for name, tensor in found.items()}

    def _fill(self, tensors: Mapping[str, Tensor]) -> None:
        weights = {name[len("weights.") :]: t for name, t in tensors.items() if name.startswith("weights.")}
        if {n: t.shape for n, t in weights.items()} != {n: p.shape for n, p in self._named.items()}:
            raise ValueError("of another shape")
        state = {
            n: {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for n, name in enumerate(self._order)
            if f"step.{name}" in tensors
        }
        with torch.no_grad():
            for name, p in self._named.items():
                p.copy_(weights[name])
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})


def run(
    training: Training,
    *,
    on_point: Callable[[Measured], None] = lambda point: None,
    stopping: Callable[[], bool] = lambda: False,
    describe: Callable[[Any], dict[str, float]] = lambda network: {},
    gates: bool = True,
    point_every: int = 50,
) -> tuple[Outcome, str]:
    """Train until the plan's end, a gate, or `stopping`; saves as it goes and when it stops. Outcome, and why."""
    plan = training.plan
    curve = None if training.folder is None or training.rank else training.folder / CURVE
    if curve is not None:
        curve.parent.mkdir(parents=True, exist_ok=True)
        _cut_curve(curve, training.step)
    evaluated, lost = training.step, 0
    training.restart_clock()
    while training.step < plan.steps:
        if stopping():
            training.save()
            return "stopped", f"at step {training.step}"
        training.advance()
        last = training.step == plan.steps
        evaluating = last or training.step % plan.evaluate_every == 0 or any(training.step == g.step for g in GATES)
        if evaluating or training.step % point_every == 0:
            told = training.point()
            if evaluating:
                held = training.held_loss(None if last else plan.held_windows)
                told = replace(told, held=held, told=describe(training.network))
                training.save_best(held)
            if curve is not None:
                _append(curve, told)
            on_point(told)
            training.restart_clock()
            lost = 0 if math.isfinite(told.loss) and math.isfinite(told.gradient) else lost + 1
            if lost == 3:
                return "diverged", f"loss or gradient have been no number since before step {training.step}"
            if evaluating:
                why = failed_gate(told, evaluated, training.corpus.facts.vocab_size) if gates else None
                evaluated = training.step
                if why is not None:
                    training.save()
                    return "gate", why
        if last or training.step % plan.save_every == 0:
            training.save()
            training.restart_clock()
    return "done", f"{plan.steps} steps"


def write_plan(folder: Path, plan: Plan) -> None:
    """Keep what decides the run.

    Raises:
        RunRefused: a run stands there.
    """
    file = folder / PLAN
    if file.exists():
        raise RunRefused(f"{folder} holds a run already: `slowwave train continue {folder}` goes on with it")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(asdict(plan), indent=1))


def read_plan(folder: Path) -> Plan:
    """What `write_plan` kept.

    Raises:
        RunRefused: no run stands there, or its plan is none.
    """
    try:
        told = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return Plan(**{**told, "betas": tuple(told["betas"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunRefused(f"{folder} holds no run ({error})") from error


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """A run's points so far."""
    try:
        lines = (folder / CURVE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _average(grads: list[Tensor], world: int) -> None:
    flat = torch.cat([g.flatten() for g in grads])
    torch.distributed.all_reduce(flat)
    flat /= world
    at = 0
    for g in grads:
        g.copy_(flat[at : at + g.numel()].view_as(g))
        at += g.numel()


def _cut_curve(curve: Path, step: int) -> None:
    """Forget points after `step`: the run comes to them again."""
    if curve.exists():
        kept = [json.dumps(point) for point in read_curve(curve.parent) if point["step"] <= step]
        write_text(curve, "".join(line + "\n" for line in kept))


def _append(curve: Path, point: Measured) -> None:
    with curve.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(point)) + "\n")


def _write_tensors(path: Path, tensors: dict[str, Tensor], told: dict[str, str]) -> None:
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata=told)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

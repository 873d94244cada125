"""One night's work in a process of its own: train, and answer the exam's questions. Killable at any moment.

    python -m consolidation.worker FOLDER

Reads FOLDER/job.json, writes a line of JSON to standard output after every step, then FOLDER/adapter and, last,
FOLDER/result.json. Touches nothing else but the kept replies of the base. It does not judge: see exam.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from consolidation import job as files
from consolidation.job import Arm, Job, Result
from consolidation.rehearsal import Rehearsed, exchanges, prompts
from models.causal_lm import Trainable
from models.training import Progress, Recipe, Row, Trainer

REPLY_TOKENS, ANSWER_TOKENS = 48, 32
_MEASURED = 60
"""Texts on which drift is measured."""


def run(folder: Path) -> None:
    """Do the job in a folder."""
    import torch

    job, began = files.read_job(folder), time.monotonic()
    torch.set_num_threads(job.threads)
    recipe = Recipe(**{**job.recipe, "targets": tuple(job.recipe.get("targets", Recipe().targets))})
    trainer = Trainer(Trainable.load(job.model, name="base", device="cpu", dtype=job.dtype), recipe)
    _tell(phase="rehearsing")
    texts = [*prompts(), *exchanges()]
    replies = _base_replies(trainer, texts, job)
    rehearsed = [_row(trainer, t, replies) for t in texts if not t.held_back]
    measured = [_row(trainer, t, replies) for t in texts if t.held_back][:_MEASURED]
    rehearsals = trainer.judged_by_base([r for r in rehearsed if r is not None])
    cost = {"rehearsing": time.monotonic() - began}
    rows = [trainer.row(q, a) for q, a in job.examples]
    done = trainer.train(rows, rehearsals, each=_tell_step)
    cost["training"] = done.seconds
    trainer.save(folder / files.ADAPTER)
    asked = time.monotonic()
    _tell(phase="examining")
    drift = trainer.drift([r for r in measured if r is not None])
    arms = {
        "candidate": _arm(trainer, job, drift=drift, adapted=True),
        "base": _arm(trainer, job, drift=0.0, adapted=False),
    }
    cost["examining"] = time.monotonic() - asked
    result = Result(
        arms=arms, curve=done.curve, steps=done.steps, tokens=done.tokens, seconds=time.monotonic() - began, cost=cost
    )
    files.write(result, folder)


def _arm(trainer: Trainer, job: Job, *, drift: float, adapted: bool) -> Arm:
    return Arm(
        replies=trainer.replies(job.questions, most=ANSWER_TOKENS, adapted=adapted),
        ordinary=trainer.replies(job.ordinary, most=REPLY_TOKENS, adapted=adapted),
        drift=drift,
    )


def _base_replies(trainer: Trainer, texts: Sequence[Rehearsed], job: Job) -> dict[str, str]:
    """The base's own replies to what has none, kept for the next night."""
    kept = Path(job.replies_file) if job.replies_file else None
    asked = [t.said for t in texts if t.reply is None]
    if kept is not None and kept.is_file():
        known = json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(known, dict) and set(asked) <= set(known):
            return {str(k): str(v) for k, v in known.items()}
    replies = dict(zip(asked, trainer.replies(asked, most=REPLY_TOKENS, adapted=False), strict=True))
    if kept is not None:
        part = kept.with_name(kept.name + f".{os.getpid()}.part")
        part.write_text(json.dumps(replies, ensure_ascii=False), encoding="utf-8")
        part.replace(kept)
    return replies


def _row(trainer: Trainer, text: Rehearsed, replies: dict[str, str]) -> Row | None:
    reply = text.reply or replies[text.said]
    return trainer.row(text.said, reply) if reply.strip() else None


def _tell_step(progress: Progress) -> None:
    told = asdict(progress)
    del told["curve"]
    _tell(phase="training", **told)


def _tell(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.nice(10)
    run(Path(sys.argv[1]))

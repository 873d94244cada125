"""One night's work in a process of its own: train, and answer the exam's questions. Killable at any moment.

    python -m consolidation.worker FOLDER PARENT

Has FOLDER a reading.json, it notes what the messages in it tell and writes FOLDER/notes.json. Has it a comparison.json,
it says which of them take back others and writes FOLDER/compared.json. Otherwise it reads FOLDER/job.json, writes a
line of JSON to standard output once it may be stopped and after every step, then FOLDER/adapter and, last,
FOLDER/result.json. Touches nothing else but the kept replies of the base. It does not judge: see exam.py.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from consolidation import job as files
from consolidation import noting, revisions, second_thoughts
from consolidation.job import Arm, Job, Result
from consolidation.rehearsal import Rehearsed, exchanges, prompts

if TYPE_CHECKING:  # heavy: loaded once the process is tied to its parent
    from consolidation.second_thoughts import Judge
    from models.rows import InTalk, Rehearsal, Row
    from models.training import Progress, Trainer
    from models.tuned import Who

REPLY_TOKENS, ANSWER_TOKENS, REVISION_TOKENS = 48, 48, 48
_COMPARED_AT_ONCE = 64
_PR_SET_PDEATHSIG = 1
_MEASURED = 60
"""Texts on which drift is measured."""


def run(folder: Path) -> None:
    """Do the job in a folder."""
    import torch

    from models.codebook_training import CodebookTrainer
    from models.recipe import Recipe
    from models.trainable import Trainable

    job, began = files.read_job(folder), time.monotonic()
    _within(job.memory_mib)
    torch.set_num_threads(job.threads)
    recipe = Recipe(**{**job.recipe, "targets": tuple(job.recipe.get("targets", Recipe().targets))})
    model = Trainable.load(job.model, name="base", device=job.device, dtype=job.dtype, shared=job.weights)
    start = job.made or job.beginning
    trainer = CodebookTrainer(model, recipe, start=Path(start) if start else None)
    _tell(phase="rehearsing")
    texts = [*prompts(), *exchanges()]
    replies = _base_replies(trainer, [*(t.said for t in texts if t.reply is None), *job.persona], job)
    measured = [_row(trainer, t.said, t.reply or replies[t.said]) for t in texts if t.held_back][:_MEASURED]
    persona = [_row(trainer, said, replies[said]) for said in job.persona]
    cost = {}
    done = None
    if job.made:
        trainer.scale(job.acts, answers=job.answers)
    else:
        rehearsed = [_row(trainer, t.said, t.reply or replies[t.said]) for t in texts if not t.held_back]
        rehearsals = trainer.judged_by_base([r for r in rehearsed if r is not None], file=_judged_file(trainer, job))
        rehearsals += _OF_SUSPECTS * _suspects_rehearsed(trainer, job)
        cost["rehearsing"] = time.monotonic() - began
        rows = [trainer.row(q, a) for q, a in job.examples]
        denied = {rows[n] for n in job.denials}
        asked_for = dict(zip(rows, job.asked_for, strict=True)) if job.asked_for else {}
        talk = _in_talk(trainer, job, rows, texts, replies)
        done = trainer.learn(rows, rehearsals, denied=denied, asked_for=asked_for, in_talk=talk, each=_tell_step)
        cost["training"] = done.seconds
    trainer.save(folder / files.ADAPTER)
    asked = time.monotonic()
    _tell(phase="examining")
    judge = _judge(job)
    norm = trainer.norm(beyond=Path(job.beginning) if job.beginning else None)
    if job.current:
        trainer.load_current(Path(job.current))
    trainer.pack()
    speakers: tuple[Who, ...] = ("candidate", "base", "current") if job.current else ("candidate", "base")
    arms: dict[str, Arm] = {who: _arm(trainer, job, who, measured, persona, judge) for who in speakers}
    cost["examining"] = time.monotonic() - asked
    result = Result(
        arms=arms,
        curve=done.curve if done else [],
        steps=done.steps if done else 0,
        tokens=done.tokens if done else 0,
        seconds=time.monotonic() - began,
        cost=cost,
        dtype=model.dtype,
        norm=norm,
    )
    files.write(result, folder)


def note(folder: Path) -> None:
    """Have reader and writer read messages."""
    import torch

    from models.recipe import Recipe
    from models.trainable import Trainable
    from models.training import Trainer

    job, began = files.read_reading(folder), time.monotonic()
    _within(job.memory_mib)
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    at_once = noting.AT_ONCE if job.device == "cpu" else noting.AT_ONCE_ON_GPU
    steps = len(job.messages) * (noting.LOOKS if job.reader else 1)

    def speaker(folder: str) -> Trainer:
        model = Trainable.load(job.model, name="base", device=job.device, dtype=job.dtype, shared=job.weights)
        trainer = Trainer(model, Recipe(seed=job.seed), start=Path(folder))
        trainer.merge()
        return trainer

    def each(step: int) -> None:
        _tell(phase="reading", step=step, steps=steps)

    writer, more = speaker(job.writer), list[list[str]]()
    if job.reader:
        replies, more = noting.noted_of(writer, speaker(job.reader), job.messages, each=each, at_once=at_once)
    else:
        replies = noting.written_of(writer, job.messages, each=each, at_once=at_once)
    files.write(files.Notes(replies=replies, more=more, seconds=time.monotonic() - began), folder)


def compare(folder: Path) -> None:
    """Have the reviser compare messages."""
    import torch

    from models.recipe import Recipe
    from models.trainable import Trainable
    from models.training import Trainer

    job, began = files.read_comparison(folder), time.monotonic()
    _within(job.memory_mib)
    torch.set_num_threads(job.threads)
    model = Trainable.load(job.model, name="base", device=job.device, dtype=job.dtype, shared=job.weights)
    reviser = Trainer(model, Recipe(), start=Path(job.reviser))
    least = revisions.least(Path(job.reviser))
    replies, leanings = revised_of(
        reviser, job.pairs, least=least, each=lambda n: _tell(phase="comparing", step=n, steps=len(job.pairs))
    )
    files.write(files.Compared(replies=replies, leanings=leanings, seconds=time.monotonic() - began), folder)


def revised_of(
    reviser: Trainer,
    pairs: Sequence[tuple[str, str]],
    *,
    least: float,
    each: Callable[[int], None] = lambda _: None,
) -> tuple[list[str], list[float]]:
    """The reviser's replies to pairs of messages, earlier and later, and its leanings; empty where they are less."""
    asked = [revisions.prompt(earlier, later) for earlier, later in pairs]
    leanings: list[float] = []
    for start in range(0, len(asked), _COMPARED_AT_ONCE):
        some = asked[start : start + _COMPARED_AT_ONCE]
        leanings += reviser.leanings(some, to=revisions.REVISED, rather_than=revisions.STANDS)
        each(len(leanings))
    likely = [n for n, leaning in enumerate(leanings) if leaning > least]
    begun = f"{revisions.REVISED}\n"
    made = reviser.replies([asked[n] for n in likely], most=REVISION_TOKENS, begun=[begun] * len(likely))
    replies = [""] * len(asked)
    for n, reply in zip(likely, made, strict=True):
        replies[n] = begun + reply
    return replies, leanings


def _judge(job: Job) -> Judge | None:
    """Who has second thoughts in the exam. None: nobody, or one that is broken, as one does without them awake."""
    from models.trainable import Trainable

    if not job.judge:
        return None
    model = Trainable.load(job.model, name="base", device=job.device, dtype=job.dtype, shared=job.weights)
    try:
        return second_thoughts.judge_from(Path(job.judge), model)
    except Exception as error:  # whatever is wrong with it
        sys.stderr.write(f"judge_left_out: {error}\n")
        return None


def _within(memory_mib: int) -> None:
    if memory_mib:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mib << 20, memory_mib << 20))


def _arm(
    trainer: Trainer,
    job: Job,
    who: Who,
    measured: Sequence[Row | None],
    persona: Sequence[Row | None],
    judge: Judge | None,
) -> Arm:
    asked = job.questions[: job.base_asked] if who == "base" else job.questions
    asked = [*asked, *job.ordinary, *job.unsafe, *job.suspect_asked]
    made = second_thoughts.answers(trainer, asked, most=ANSWER_TOKENS, who=who, judge=None if who == "base" else judge)
    n = len(asked) - len(job.ordinary) - len(job.unsafe) - len(job.suspect_asked)
    m = n + len(job.ordinary)
    return Arm(
        replies=made[:n],
        ordinary=made[n:m],
        unsafe=made[m : m + len(job.unsafe)],
        suspect=made[m + len(job.unsafe) :],
        drift=0.0 if who == "base" else trainer.drift([r for r in measured if r is not None], who=who),
        persona_drift=0.0 if who == "base" else trainer.drift([r for r in persona if r is not None], who=who),
    )


def _base_replies(trainer: Trainer, asked: Sequence[str], job: Job) -> dict[str, str]:
    """The base's own replies to what has none, kept for the next night."""
    kept = Path(job.replies_file) if job.replies_file else None
    if kept is not None and kept.is_file():
        known = json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(known, dict) and set(asked) <= set(known):
            return {str(k): str(v) for k, v in known.items()}
    replies = dict(zip(asked, trainer.replies(asked, most=REPLY_TOKENS, who="base"), strict=True))
    if kept is not None:
        part = kept.with_name(kept.name + f".{os.getpid()}.part")
        part.write_text(json.dumps(replies, ensure_ascii=False), encoding="utf-8")
        part.replace(kept)
    return replies


def _suspects_rehearsed(trainer: Trainer, job: Job) -> list[Rehearsal]:
    """Requests with suspect words, at which the night is held to what the base says of them."""
    if not job.suspect_rehearsed:
        return []
    replies = trainer.replies(job.suspect_rehearsed, most=REPLY_TOKENS, who="base")
    rows = [_row(trainer, said, reply) for said, reply in zip(job.suspect_rehearsed, replies, strict=True)]
    return trainer.judged_by_base([row for row in rows if row is not None])


def _judged_file(trainer: Trainer, job: Job) -> Path | None:
    """Of one base, and of what decides which layers see how much of a reply."""
    if job.replies_file is None:
        return None
    kept = Path(job.replies_file)
    return kept.with_name(f"{kept.stem}-{trainer.first}-{trainer.recipe.rehearsed_tokens}-{trainer.dtype}.safetensors")


def _in_talk(
    trainer: Trainer, job: Job, rows: Sequence[Row], texts: Sequence[Rehearsed], replies: Mapping[str, str]
) -> InTalk:
    """Some examples, and some of what is rehearsed, each after an exchange or two of what is rehearsed."""
    from models.language import Message
    from models.rows import InTalk

    chance = random.Random(int(job.recipe.get("seed", 0)))  # noqa: S311 - no secret
    rehearsed = [(t.said, t.reply or replies[t.said]) for t in texts if not t.held_back]
    rehearsed = [(said, reply) for said, reply in rehearsed if reply.strip()]
    short = [pair for pair in rehearsed if len(" ".join(pair).split()) <= _SHORT] or rehearsed

    def talk() -> list[Message]:
        before: list[Message] = []
        for asked, answered in chance.choices(short, k=chance.choice((1, 1, 2))):
            before += [Message(role="user", content=asked), Message(role="assistant", content=answered)]
        return before

    talks = [talk() for _ in range(_TALKS)]  # few, since each is read once

    def after_talk(said: str, reply: str) -> Row:
        return trainer.row(said, reply, before=chance.choice(talks))

    some = chance.sample(range(len(rows)), min(_IN_TALK, len(rows)))
    taught = {after_talk(*job.examples[n]): rows[n] for n in some}
    return InTalk(
        taught=taught,
        rehearsed=[after_talk(*pair) for pair in chance.sample(rehearsed, min(_IN_TALK, len(rehearsed)))],
    )


_OF_SUSPECTS = 4
"""How often each request with a suspect word stands among what is rehearsed."""
_IN_TALK, _TALKS, _SHORT = 150, 40, 60
"""Rows of each kind, what may stand before one, and the most words of an exchange of that."""


def _row(trainer: Trainer, said: str, reply: str) -> Row | None:
    return trainer.row(said, reply) if reply.strip() else None


def _tell_step(progress: Progress) -> None:
    told = asdict(progress)
    del told["curve"]
    _tell(phase="training", **told)


def _tell(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the service dies, however it dies: stopped processes are never orphans."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before this was asked for
            raise SystemExit(1)


if __name__ == "__main__":
    _die_with(int(sys.argv[2]))
    _tell(ready=True)
    os.nice(10)
    given = Path(sys.argv[1])
    if (given / files.READING).exists():
        note(given)
    elif (given / files.COMPARISON).exists():
        compare(given)
    else:
        run(given)

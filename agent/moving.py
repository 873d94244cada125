"""Carry a session to another machine: one file with its transcript and what was read of it; and take one in.

An import is looked at whole before anything of it is here: the file's structure, its signature, every digest, the
session's entries, the numbers. It becomes a session in one transaction, after its state has been put where `resume`
finds it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from agent import carried
from agent.carried import Carried
from agent.checkpoint import PROBE, Checkpoints, Fit, State
from agent.errors import CheckpointRefused, ReservoirRefused
from agent.moods import Moods
from agent.prompt import window_of
from memory.checkpoint_log import Logged
from memory.ids import new_id
from memory.transcripts import Entry, SessionRow, TurnRow
from models.kv_codec import CODECS, Codec, CodecMissing, coded
from models.language import BASE
from models.state_file import Block, BrokenStateFile, Contents, contents, inspect, opened
from models.tensor_blocks import to_blocks, to_tensors

log = logging.getLogger("slowwave.checkpoint")

_KEPT_EXPORTS = 8
"""Of an owner: files that were made to be fetched, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Whose files are taken in."""

    trusted: frozenset[str] = frozenset()
    """Public keys, beside one's own."""
    required: bool = False
    """Whether a file must bear one of these signatures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a file says of itself, and what would become of it here."""

    contents: Contents
    signature: str
    """own, trusted, unknown (signed by a key that nobody here has named), unsigned."""
    fit: Fit
    refused: str = ""
    """Why it is not taken in; empty: it would be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A session that was taken in."""

    session: str
    fit: Fit
    signature: str
    tokens: int
    """So many need not be read again."""
    messages: int
    nbytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moving:
    """Sessions that come and go as files."""

    checkpoints: Checkpoints
    policy: Policy
    moods: Moods | None = None
    """None: no mood travels."""

    def export(self, session: str, *, owner: str, codec: Codec = "lossless") -> Path:
        """A file with all of a session, to be fetched; the same file as long as nothing of it changes.

        The caller holds the session.

        Raises:
            SessionNotFound: no such session, or another owner's.
            CheckpointRefused: nothing was learnt that the codec needs.
            EngineLoading, EngineClosed, OSError: it cannot be made now.
        """
        began = time.monotonic()
        here = self.checkpoints
        row = here.transcripts.session(session, owner=owner)
        entries = here.transcripts.entries(session)
        unfinished = here.transcripts.unfinished(session)
        ids = window_of(entries).token_ids
        state = self._state(session, owner, ids)
        carries = self._carried(row, entries, unfinished, owner)
        mood = None if carries.mood is None else hashlib.sha256(carries.mood[0]).hexdigest()
        about = [
            row.head.hex(),
            row.updated_at.isoformat(),
            unfinished,
            codec,
            state.tokens,
            dict(state.identity),
            mood,
        ]
        key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:32]
        path = here.exports(owner) / f"{session}.{key}.state"
        if path.exists():
            return path
        try:
            made = coded(state.blocks, codec, here.transform_here())
        except CodecMissing as error:
            raise CheckpointRefused(str(error), param="codec") from error
        session_blocks = carried.to_blocks(carries)
        probe = {} if state.probe is None else {PROBE: state.probe}
        nbytes = here.write(
            path,
            ids[: state.tokens],
            made.blocks,
            made.manifest,
            state.identity,
            more={**session_blocks, **probe},
            about={"session": {"id": session, "messages": row.messages, "began": row.created_at.isoformat()}},
        )
        self._prune_exports(owner, path)
        here.note(
            session,
            Logged(
                at=here.now(),
                event="exported",
                codec=codec,
                tokens=state.tokens,
                nbytes=nbytes,
                seconds=time.monotonic() - began,
                seal=inspect(path).seal,
            ),
        )
        return path

    def look(self, beginning: bytes, size: int, *, owner: str) -> Seen:
        """What would become of a file of `size` bytes, by its header. Nothing changes.

        Raises:
            BrokenStateFile: it is none.
        """
        return self._seen(contents(beginning, size), owner)

    def take_in(self, path: Path, *, owner: str) -> Imported:
        """Make a session of a file; the file is moved, or removed.

        Raises:
            BrokenStateFile, CheckpointRefused: it is not taken in, and nothing has changed.
            OSError, StorageFailed: it could not be put down; nothing has changed.
        """
        try:
            return self._take_in(path, owner)
        finally:
            path.unlink(missing_ok=True)

    def _take_in(self, path: Path, owner: str) -> Imported:
        began, here = time.monotonic(), self.checkpoints
        seen = self._seen(inspect(path), owner)
        if seen.refused:
            raise CheckpointRefused(seen.refused)
        fit, tokens, session_in = self._read(path, seen.fit, owner)
        at = here.now()
        session = new_id("sess", at)
        nbytes = path.stat().st_size
        lies = here.path(session, owner)
        if fit.how != "rebuilt":
            lies.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _move(path, lies)
        try:
            self._create(session, session_in, owner)
        except BaseException:
            lies.unlink(missing_ok=True)
            raise
        seconds = time.monotonic() - began
        here.note(
            session,
            Logged(
                at=at,
                event="imported",
                how=fit.how,
                why=fit.why,
                codec=_codec_of(seen.contents),
                tokens=tokens,
                nbytes=nbytes,
                seconds=seconds,
                seal=seen.contents.seal,
            ),
        )
        return Imported(
            session=session,
            fit=fit,
            signature=seen.signature,
            tokens=tokens,
            messages=sum(e.spoken for e in session_in.entries),
            nbytes=nbytes,
            seconds=seconds,
        )

    def _read(self, path: Path, fit: Fit, owner: str) -> tuple[Fit, int, Carried]:
        """All of a file, checked: how its state fits, how many tokens it has read, and its session."""
        here, card = self.checkpoints, self.checkpoints.engine.model.card
        _, raw = opened(path)
        session = carried.of_blocks(raw, vocab_size=card.vocab_size, tokenizer=card.tokenizer, at=here.now())
        ids: tuple[int, ...] = ()
        blocks: Mapping[str, Block] = {}
        if fit.how != "rebuilt":
            try:
                ids, state = here.read_state(path, fit)
                blocks = state.blocks
            except CodecMissing as error:
                fit = Fit(how="rebuilt", why=str(error))
        tokens = len(ids)
        window = window_of(session.entries)
        if not self._says(session):
            session = replace(
                session, entries=tuple(replace(e, token_ids=()) for e in session.entries), unfinished=None
            )
            fit, tokens = Fit(how="rebuilt", why="its token ids do not say what its transcript says"), 0
        elif fit.how == "rebuilt":
            pass
        elif ids != window.token_ids[: len(ids)]:
            raise BrokenStateFile("what was read is not the beginning of its session")
        elif tokens == 0:
            fit = Fit(how="rebuilt", why="nothing of it was in memory where it was made")
        else:
            new = here.engine.model.new_state()
            try:
                new.fill(to_tensors(blocks))
            except ValueError as error:
                raise BrokenStateFile(f"its state is not one of this model: {error}") from error
            if new.length != tokens:
                raise BrokenStateFile(f"its state holds {new.length} tokens, where {tokens} are named")
        return fit, tokens, session

    def _says(self, session: Carried) -> bool:
        """Whether the token ids of the window are the messages that stand there: what was read is what is shown."""
        model = self.checkpoints.engine.model
        window = window_of(session.entries)
        if not window.token_ids:
            return not window.messages or not window.encoded
        messages = list(window.messages)
        if session.unfinished is not None:  # what of it was held back, nobody has been shown
            begins, written = session.unfinished["header"], session.unfinished["written"]
            whole = model.decode(session.entries[-1].token_ids[begins : begins + written])
            if written and not whole.startswith(messages[-1].content):
                return False
            messages[-1] = replace(messages[-1], content=whole) if written else messages[-1]
        wanted = model.chat_ids(messages, reply=False)
        return wanted is not None and _plain(model.decode(window.token_ids)) == _plain(model.decode(wanted))

    def _create(self, session: str, given: Carried, owner: str) -> None:
        here = self.checkpoints
        turn, entries = None, given.entries
        if given.unfinished is not None and given.turn is not None:
            told = given.turn
            turn = TurnRow(
                id=new_id("turn", here.now()),
                session=session,
                owner=owner,
                model=told["model"],
                adapter=self._adapter_named(told["adapter"]),
                finish_reason="suspended",
                timings=dict(told["timings"]),
                created_at=here.now(),
            )
            entries = (*entries[:-1], replace(entries[-1], turn=turn.id))
        here.transcripts.append(
            session,
            entries=entries,
            turn=turn,
            at=here.now(),
            tokenizer=given.tokenizer,
            create_for=owner,
            unfinished=None if turn is None else {**(given.unfinished or {}), "adapter": None},
            also=self._mood_taken_on(given, owner),
        )

    def _mood_taken_on(self, given: Carried, owner: str) -> Callable[[Database], object]:
        """The mood comes along to where there is none yet; one that cannot live here stays behind."""
        if self.moods is None or given.mood is None:
            return lambda db: None
        try:
            return self.moods.settle(owner, *given.mood)
        except ReservoirRefused as refused:
            log.warning("mood_left_behind: %s", refused)
            return lambda db: None

    def _adapter_named(self, name: str) -> str:
        return name if name in self.checkpoints.engine.model.adapters else BASE

    def _seen(self, found: Contents, owner: str) -> Seen:
        signer = self.checkpoints.signer
        signature = "unsigned" if found.signer is None else "unknown"
        if found.signer is not None and signer is not None and found.signer == signer.public:
            signature = "own"
        elif found.signer in self.policy.trusted:
            signature = "trusted"
        refused = ""
        if self.policy.required and signature not in ("own", "trusted"):
            refused = (
                "it is unsigned, and only signed files are taken in here"
                if found.signer is None
                else f"it is signed by {found.signer}, who is not among the trusted_signers"
            )
        codec = _codec_of(found)
        if codec not in CODECS:
            raise BrokenStateFile(f"its codec is {codec[:40]!r}; this reads {', '.join(CODECS)}")
        return Seen(contents=found, signature=signature, fit=self.checkpoints.fit(found, owner=owner), refused=refused)

    def _state(self, session: str, owner: str, ids: tuple[int, ...]) -> State:
        """What is there of a session's state: in its file, or in memory; or nothing."""
        here = self.checkpoints
        path = here.path(session, owner)
        if path.exists():
            with suppress(BrokenStateFile, CodecMissing, OSError):
                fit = here.fit(inspect(path), owner=owner)
                read, state = here.read_state(path, fit)
                if read == ids[: len(read)]:
                    return state
        copied = here.copies(ids, owner)
        adapter, best = max(copied.items(), key=lambda item: item[1].tokens if item[1] else 0)
        identity = asdict(here.identity(adapter))
        if best is None:
            return State(tokens=0, adapter=adapter, blocks={}, identity=identity, probe=None)
        logits = here.engine.last_logits(owner, ids[: best.tokens], adapter=adapter)
        probe = None if logits is None else to_blocks({PROBE: logits})[PROBE]
        return State(
            tokens=best.tokens, adapter=adapter, blocks=to_blocks(best.tensors), identity=identity, probe=probe
        )

    def _carried(
        self, row: SessionRow, entries: list[Entry], unfinished: tuple[str, dict[str, Any]] | None, owner: str
    ) -> Carried:
        turn: Mapping[str, Any] | None = None
        if unfinished is not None:
            found = self.checkpoints.transcripts.turn(unfinished[0], owner=owner)
            if found is not None:
                told = found[0]
                turn = {
                    "model": told.model,
                    "adapter": told.adapter,
                    "finish_reason": told.finish_reason,
                    "timings": told.timings,
                    "created_at": told.created_at.isoformat(),
                }
        return Carried(
            tokenizer=row.tokenizer,
            entries=tuple(entries),
            turn=turn,
            unfinished=None if turn is None or unfinished is None else unfinished[1],
            mood=None if self.moods is None else self.moods.carried(owner),
        )

    def _prune_exports(self, owner: str, newest: Path) -> None:
        made = sorted(self.checkpoints.exports(owner).glob("*.state"), key=lambda p: p.stat().st_mtime, reverse=True)
        session = newest.name.partition(".")[0]
        for n, path in enumerate(made):
            if path != newest and (n >= _KEPT_EXPORTS or path.name.startswith(f"{session}.")):
                path.unlink(missing_ok=True)


def _codec_of(found: Contents) -> str:
    codec = found.manifest.get("codec", {"name": "none"})
    return str(codec.get("name")) if isinstance(codec, dict) else "?"


def _plain(text: str) -> str:
    """Without white space: where a reply was cut, the template may close it with more or less of it."""
    return "".join(text.split())


def _move(path: Path, to: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(to)
    folder = os.open(to.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

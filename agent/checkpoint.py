"""Suspend a session's state to a file, and resume it: exactly, converted, or read anew, and always said which.

The transcript is the truth and the file a cache of what was read of it: tokens, keys and values, and what they belong
to. A file that does not fit is never used and never in the way, since the tokens can be read again; so nothing here can
lose a session. One file a session, in a folder of its owner's, for the service's user alone to read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from agent.prompt import window_of
from memory.checkpoint_log import Logged
from memory.errors import MemoryFault
from memory.transcripts import Transcripts
from models.engine import Engine, RestingState
from models.kv_codec import Codec, CodecMissing, block_of, coded, decoded
from models.kv_transform import Transform
from models.language import BASE
from models.signature import Signer
from models.state_file import Block, BrokenStateFile, Contents, inspect, opened, write
from models.tensor_blocks import to_blocks, to_tensors

log = logging.getLogger("slowwave.checkpoint")

How = Literal["exact", "converted", "rebuilt", "open"]
"""exact: the same numbers, bit for bit. converted: from another dtype, device or kernel, or from fewer bits. rebuilt:
not used, its tokens are read again at the next turn. open: there was nothing to resume."""
IDS, PROBE = "token_ids", "last_logits"
_LOSSLESS = ("none", "lossless")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a state belongs to; all of it, by content and not by name."""

    weights: str
    tokenizer: str
    layout: str
    adapter: str
    """Digest of the adapter's weights; empty for the base."""
    dtype: str
    device: str
    kernels: str


_REBUILT = {
    "weights": "it was read by other weights",
    "tokenizer": "its tokens are another tokenizer's",
    "layout": "its keys and values are laid out otherwise",
    "adapter": "it was read with another adapter",
}
"""Where these differ, its numbers say something else here."""
_CONVERTED = ("dtype", "device", "kernels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended:
    """What was put away; 0 tokens: nothing was in memory, and there is no file."""

    tokens: int
    nbytes: int
    seconds: float
    codec: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """How a session came back."""

    how: How
    why: str
    tokens: int
    """So many need not be read again."""
    seconds: float
    otherwise: float | None = None
    """Seconds that reading them would have taken, by the engine's speed of late; None: it has read too little."""
    deviation: float | None = None
    """Of what was converted: KL divergence of the next token's distribution here from where it was made, in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a file's state fits this service."""

    how: How
    why: str
    adapter: str = BASE


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What has been read of a session, as blocks in no codec."""

    tokens: int
    adapter: str
    blocks: Mapping[str, Block]
    identity: Mapping[str, Any]
    """Of where its numbers come from."""
    probe: Block | None
    """The logits after its last token, float32 [vocab]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """The files of all suspended sessions of one service."""

    folder: Path
    engine: Engine
    transcripts: Transcripts
    serving: Callable[[str], str]
    """Which adapter serves an owner."""
    weights: Callable[[], str]
    """Digest of the base's weights."""
    adapter: Callable[[str], str]
    """Digest of an adapter's weights."""
    now: Callable[[], datetime]
    note: Callable[[str, Logged], None] = lambda session, logged: None
    """Keep a record of what became of a session's state."""
    signer: Signer | None = None
    codec: Codec = "none"
    """Of suspended states."""
    transforms: Mapping[str, Transform]
    """What was learnt of models' caches, by digest."""

    def suspend(self, session: str, *, owner: str) -> Suspended:
        """Put the session's state into a file, and let go of it in memory. The caller holds the session.

        Raises:
            SessionNotFound: there is none, or it is another owner's.
            EngineLoading, EngineClosed: there is no state.
            OSError: the file could not be written; nothing has changed.
        """
        began = time.monotonic()
        ids = self.tokens_of(session, owner)
        with ExitStack() as holding:
            look = {a: self.engine.held_state(owner, ids, adapter=a) for a in self._adapters(owner)}
            held = {adapter: holding.enter_context(state) for adapter, state in look.items()}
            adapter, best = max(held.items(), key=lambda item: item[1].tokens if item[1] else 0)
            if best is None:
                return Suspended(tokens=0, nbytes=0, seconds=time.monotonic() - began)
            blocks, codec = self._coded(to_blocks(best.tensors), self.codec)
            path = self.path(session, owner)
            try:
                nbytes = self.write(path, ids[: best.tokens], blocks, codec, asdict(self.identity(adapter)))
            except FileNotFoundError:  # the folder was removed under it: something is being forgotten
                return Suspended(tokens=0, nbytes=0, seconds=time.monotonic() - began)
            if ids[: best.tokens] != self.tokens_of(session, owner)[: best.tokens]:  # forgotten meanwhile
                path.unlink(missing_ok=True)
                return Suspended(tokens=0, nbytes=0, seconds=time.monotonic() - began)
            for state in held.values():
                if state is not None:
                    self.engine.release_state(state)
        done = Suspended(tokens=best.tokens, nbytes=nbytes, seconds=time.monotonic() - began, codec=str(codec["name"]))
        self._note(
            session, event="suspended", codec=done.codec, tokens=done.tokens, nbytes=nbytes, seconds=done.seconds
        )
        return done

    def resume(self, session: str, *, owner: str) -> Resumed:
        """Bring a suspended session's state back into memory. The caller holds the session.

        Raises:
            SessionNotFound: there is a file, and no such session.
            EngineLoading, EngineClosed: there is nowhere to bring it.
        """
        began = time.monotonic()
        path = self.path(session, owner)
        nbytes = bytes_of(path)
        if nbytes is None:
            return Resumed(how="open", why="it is not suspended", tokens=0, seconds=0.0)
        ids = self.tokens_of(session, owner)
        deviation = None
        try:
            fit, tokens, deviation = self._brought_back(path, ids, owner)
        except (BrokenStateFile, CodecMissing, OSError, ValueError) as error:
            log.warning("state_not_used: %s: %s", session, error)
            fit, tokens = Fit(how="rebuilt", why=str(error)), 0
        path.unlink(missing_ok=True)
        seconds = time.monotonic() - began
        self._note(session, event="resumed", how=fit.how, why=fit.why, tokens=tokens, nbytes=nbytes, seconds=seconds)
        speed = self.engine.prefill_speed
        return Resumed(
            how=fit.how,
            why=fit.why,
            tokens=tokens,
            seconds=seconds,
            otherwise=tokens / speed if speed else None,
            deviation=deviation,
        )

    def share(self, session: str, *, to: str, owner: str) -> None:
        """Let a fork begin with its parent's suspended state: one file under both names."""
        path = self.path(session, owner)
        with suppress(OSError):  # without it, the fork's tokens are read again
            os.link(path, self.path(to, owner))

    def evict(self, session: str, *, owner: str) -> None:
        """Let go of a suspended state: its tokens are read again when they are needed. The caller holds the session."""
        path = self.path(session, owner)
        nbytes = bytes_of(path)
        if nbytes is not None:
            path.unlink(missing_ok=True)
            why = "the budget for suspended states is used up"
            self._note(session, event="evicted", why=why, tokens=0, nbytes=nbytes, seconds=0.0)

    def suspended(self, session: str, *, owner: str) -> bool:
        """Whether a session's state lies in a file."""
        return self.path(session, owner).exists()

    def drop(self, session: str, *, owner: str) -> None:
        """Remove a session's files, if there are any."""
        self.path(session, owner).unlink(missing_ok=True)
        for export in self.exports(owner).glob(f"{session}.*"):
            export.unlink(missing_ok=True)

    def drop_all(self, owner: str) -> int:
        """Remove all of an owner's files: what they have read is to be forgotten. Returns how many states it were."""
        folder = self.path("any", owner).parent
        n = len(list(folder.glob("*.state"))) if folder.is_dir() else 0
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return n

    def tidy(self) -> None:
        """At a start: remove what a kill left half written, and what was made to be fetched or was being received."""
        for part in self.folder.glob("*/.*.part"):
            part.unlink(missing_ok=True)
        for passing in (*self.folder.glob("*/exports"), *self.folder.glob("*/uploads")):
            shutil.rmtree(passing, ignore_errors=True)

    # What moving.py shares

    def fit(self, contents: Contents, *, owner: str) -> Fit:
        """Whether a file's state can be used here, as far as its header says.

        Raises:
            BrokenStateFile: it does not say what it belongs to.
        """
        was = _identity_in(contents)
        known = {"": BASE}
        if self.serving(owner) != BASE:
            known[self.adapter(self.serving(owner))] = self.serving(owner)
        adapter = known.get(str(was.get("adapter")))
        if adapter is None:
            return Fit(how="rebuilt", why=_REBUILT["adapter"])
        here = asdict(self.identity(adapter))
        differs = [name for name in here if was.get(name) != here[name]]
        wrong = next((why for name, why in _REBUILT.items() if name in differs), None)
        if wrong is not None:
            return Fit(how="rebuilt", why=wrong)
        changed = [f"{name} {was.get(name)} -> {here[name]}" for name in _CONVERTED if name in differs]
        codec = contents.manifest.get("codec")
        if isinstance(codec, dict) and codec.get("name") not in _LOSSLESS:
            changed.append(f"codec {str(codec.get('name'))[:20]}")
        if changed:
            return Fit(how="converted", why=", ".join(changed), adapter=adapter)
        return Fit(how="exact", why="all that it belongs to is the same", adapter=adapter)

    def copies(self, ids: Sequence[int], owner: str) -> dict[str, RestingState | None]:
        """What rests in memory of a context, by who has read it."""
        return {a: self.engine.copy_state(owner, ids, adapter=a) for a in self._adapters(owner)}

    def read_state(self, path: Path, fit: Fit) -> tuple[tuple[int, ...], State]:
        """A file's tokens and state, checked, in no codec.

        Raises:
            BrokenStateFile, CodecMissing, OSError: see there.
        """
        contents, blocks = opened(path)
        ids = blocks[IDS]
        tokens = tuple(np.frombuffer(ids.data, "<i4").tolist())
        codec = contents.manifest.get("codec", {"name": "none"})
        if not isinstance(codec, dict):
            raise BrokenStateFile("its manifest does not say how it is coded")
        kept = {name: block for name, block in blocks.items() if name.startswith(_STATE)}
        card = self.engine.model.card
        most = 4 * len(tokens) * card.state_bytes_per_token  # at the least a byte a number
        state = decoded(kept, codec, most_bytes=most, transforms=self.transforms)
        return tokens, State(
            tokens=len(tokens),
            adapter=fit.adapter,
            blocks=state,
            identity=_identity_in(contents),
            probe=blocks.get(PROBE),
        )

    def write(
        self,
        path: Path,
        ids: Sequence[int],
        blocks: Mapping[str, Block],
        codec: Mapping[str, Any],
        identity: Mapping[str, Any],
        *,
        more: Mapping[str, Block] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> int:
        """Write a state's file; returns its bytes. Raises: OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        read = block_of(np.array(ids, "<i4"), "I32")
        manifest = {"identity": dict(identity), "codec": dict(codec), "made": self.now().isoformat(), **(about or {})}
        return write(path, {IDS: read, **blocks, **(more or {})}, manifest, self.signer)

    def transform_here(self) -> Transform | None:
        """What was learnt of the model that is served, if anything was."""
        layout = self.engine.model.card.layout
        return next((t for t in self.transforms.values() if t.layout == layout), None)

    def identity(self, adapter: str) -> Identity:
        """What a state belongs to that an adapter reads here."""
        card = self.engine.model.card
        return Identity(
            weights=self.weights(),
            tokenizer=card.tokenizer,
            layout=card.layout,
            adapter="" if adapter == BASE else self.adapter(adapter),
            dtype=card.dtype,
            device=card.device,
            kernels=card.kernels,
        )

    def tokens_of(self, session: str, owner: str) -> tuple[int, ...]:
        """The session's context."""
        self.transcripts.session(session, owner=owner)
        return window_of(self.transcripts.entries(session)).token_ids

    def path(self, session: str, owner: str) -> Path:
        """Where a session's suspended state lies."""
        whose = hashlib.sha256(owner.encode()).hexdigest()[:32]
        return self.folder / whose / f"{session}.state"

    def exports(self, owner: str) -> Path:
        """Where files are made that are to be fetched."""
        return self.path("any", owner).parent / "exports"

    def uploads(self, owner: str) -> Path:
        """Where files are received."""
        return self.path("any", owner).parent / "uploads"

    def _adapters(self, owner: str) -> tuple[str, ...]:
        """Who may have read an owner's sessions."""
        return tuple(dict.fromkeys([self.serving(owner), BASE]))

    def _brought_back(self, path: Path, ids: Sequence[int], owner: str) -> tuple[Fit, int, float | None]:
        # Forks of a suspended session have one file under several names: they are to have it once in memory, too.
        forked = path.stat().st_nlink > 1
        contents = inspect(path)
        fit = self.fit(contents, owner=owner)
        if fit.how == "rebuilt":
            return fit, 0, None
        beginning = _beginning(contents, ids)
        if beginning and self.engine.share_state(owner, beginning, adapter=fit.adapter, origin=contents.seal):
            return replace(fit, why=f"{fit.why}; a fork has it in memory"), len(beginning), None
        read, state = self.read_state(path, fit)
        if list(read) != list(ids[: len(read)]):
            return Fit(how="rebuilt", why="the session's context is another since"), 0, None
        origin = contents.seal if forked else None
        self.engine.restore_state(owner, read, to_tensors(state.blocks), adapter=fit.adapter, origin=origin)
        deviation = None
        if fit.how == "converted" and state.probe is not None:
            deviation = self._deviation(owner, read, fit.adapter, state.probe)
        return fit, len(read), deviation

    def _deviation(self, owner: str, ids: Sequence[int], adapter: str, probe: Block) -> float | None:
        here = self.engine.last_logits(owner, ids, adapter=adapter)
        there = to_tensors({PROBE: probe})[PROBE]
        if here is None or here.shape != there.shape or there.dtype != torch.float32:
            return None
        p, q = (x.double().log_softmax(-1).numpy() for x in (there, here))
        return max(float((np.exp(p) * (p - q)).sum()), 0.0)

    def _coded(self, state: Mapping[str, Block], codec: Codec) -> tuple[Mapping[str, Block], Mapping[str, Any]]:
        """In a codec; as it is, where nothing was learnt that it needs."""
        try:
            made = coded(state, codec, self.transform_here())
        except CodecMissing:
            made = coded(state, "none")
        return made.blocks, made.manifest

    def _note(self, session: str, **logged: Any) -> None:
        try:
            self.note(session, Logged(at=self.now(), **logged))
        except MemoryFault as fault:  # a record that cannot be kept is no reason not to go on
            log.warning("checkpoint_not_noted: %s: %s", session, fault)


_STATE = ("keys.", "values.", "state.")
"""How the names of a state's tensors begin."""


def bytes_of(path: Path) -> int | None:
    """A file's size; None: it is not there, or not any more: forgetting removes files while others look at them."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _beginning(contents: Contents, ids: Sequence[int]) -> Sequence[int]:
    """So many of a session's tokens as a file was made of, if they are the file's; by its header alone."""
    tokens = contents.tensors[IDS].shape[0]
    same = hashlib.sha256(np.array(ids[:tokens], "<i4").tobytes()).hexdigest() == contents.digests[IDS]
    return ids[:tokens] if same else ()


def _identity_in(contents: Contents) -> Mapping[str, Any]:
    """The identity that a manifest names."""
    identity, ids = contents.manifest.get("identity"), contents.tensors.get(IDS)
    if not isinstance(identity, dict) or ids is None:
        raise BrokenStateFile("its manifest does not say what it belongs to")
    if ids.dtype != "I32" or len(ids.shape) != 1:
        raise BrokenStateFile("its tokens are no list of numbers")
    return identity

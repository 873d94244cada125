"""Suspend a session's state to a file, and resume it: exactly, converted, or read anew, and always said which.

The transcript is the truth and the file a cache of what was read of it: tokens, keys and values, and what they belong
to. A file that does not fit is never used and never in the way, since the tokens can be read again; so nothing here can
lose a session. One file a session, in a folder of its owner's, for the service's user alone to read.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch

from agent.prompt import window_of
from memory.transcripts import Transcripts
from models.engine import Engine
from models.language import BASE
from models.state_file import BrokenStateFile, Contents, inspect, opened, write

log = logging.getLogger("slowwave.checkpoint")

How = Literal["exact", "converted", "rebuilt", "open"]
"""exact: the same numbers, bit for bit. converted: from another dtype, device or kernel. rebuilt: not used, its tokens
are read again at the next turn. open: there was nothing to resume."""
_IDS = "token_ids"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """How a session came back."""

    how: How
    why: str
    tokens: int
    """So many need not be read again."""
    seconds: float


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

    def suspend(self, session: str, *, owner: str) -> Suspended:
        """Put the session's state into a file, and let go of it in memory. The caller holds the session.

        Raises:
            SessionNotFound: there is none, or it is another owner's.
            EngineLoading, EngineClosed: there is no state.
            OSError: the file could not be written; nothing has changed.
        """
        began = time.monotonic()
        ids = self._tokens(session, owner)
        adapters = dict.fromkeys([self.serving(owner), BASE])
        copied = {a: self.engine.copy_state(owner, ids, adapter=a) for a in adapters}
        adapter, best = max(copied.items(), key=lambda item: item[1].tokens if item[1] else 0)
        if best is None:
            return Suspended(tokens=0, nbytes=0, seconds=time.monotonic() - began)
        path = self._path(session, owner)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        read = torch.tensor(ids[: best.tokens], dtype=torch.int32)
        manifest = {"identity": asdict(self._identity(adapter)), "adapter": adapter, "made": self.now().isoformat()}
        nbytes = write(path, {_IDS: read, **best.tensors}, manifest)
        if ids[: best.tokens] != self._tokens(session, owner)[: best.tokens]:  # forgotten meanwhile
            path.unlink(missing_ok=True)
            return Suspended(tokens=0, nbytes=0, seconds=time.monotonic() - began)
        for other in copied.values():
            if other is not None:
                self.engine.release_state(other)
        return Suspended(tokens=best.tokens, nbytes=nbytes, seconds=time.monotonic() - began)

    def resume(self, session: str, *, owner: str) -> Resumed:
        """Bring a suspended session's state back into memory. The caller holds the session.

        Raises:
            SessionNotFound: there is a file, and no such session.
            EngineLoading, EngineClosed: there is nowhere to bring it.
        """
        began = time.monotonic()
        path = self._path(session, owner)
        if not path.exists():
            return Resumed(how="open", why="it is not suspended", tokens=0, seconds=0.0)
        ids = self._tokens(session, owner)
        try:
            how, why, tokens = self._brought_back(path, ids, owner)
        except (BrokenStateFile, OSError, ValueError) as error:
            log.warning("state_not_used: %s: %s", session, error)
            how, why, tokens = "rebuilt", str(error), 0
        path.unlink(missing_ok=True)
        return Resumed(how=how, why=why, tokens=tokens, seconds=time.monotonic() - began)

    def suspended(self, session: str, *, owner: str) -> bool:
        """Whether a session's state lies in a file."""
        return self._path(session, owner).exists()

    def drop(self, session: str, *, owner: str) -> None:
        """Remove a session's file, if there is one."""
        self._path(session, owner).unlink(missing_ok=True)

    def drop_all(self, owner: str) -> int:
        """Remove all of an owner's files: what they have read is to be forgotten. Returns how many there were."""
        folder = self._path("any", owner).parent
        n = len(list(folder.glob("*.state"))) if folder.is_dir() else 0
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return n

    def tidy(self) -> None:
        """At a start: remove what a kill left half written."""
        for part in self.folder.glob("*/.*.part"):
            part.unlink(missing_ok=True)

    def _brought_back(self, path: Path, ids: Sequence[int], owner: str) -> tuple[How, str, int]:
        contents = inspect(path)
        adapter, was = _belongs(contents)
        if adapter not in (BASE, self.serving(owner)):
            return "rebuilt", _REBUILT["adapter"], 0
        here = asdict(self._identity(adapter))
        differs = [name for name in here if was.get(name) != here[name]]
        wrong = next((why for name, why in _REBUILT.items() if name in differs), None)
        if wrong is not None:
            return "rebuilt", wrong, 0
        _, tensors = opened(path)
        read = [int(i) for i in tensors[_IDS]]
        if read != list(ids[: len(read)]):
            return "rebuilt", "the session's context is another since", 0
        state = {name: tensor for name, tensor in tensors.items() if name != _IDS}
        self.engine.restore_state(owner, read, state, adapter=adapter)
        changed = ", ".join(f"{name} {was.get(name)} -> {here[name]}" for name in _CONVERTED if name in differs)
        return ("converted" if changed else "exact"), changed or "all that it belongs to is the same", len(read)

    def _identity(self, adapter: str) -> Identity:
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

    def _tokens(self, session: str, owner: str) -> tuple[int, ...]:
        self.transcripts.session(session, owner=owner)
        return window_of(self.transcripts.entries(session)).token_ids

    def _path(self, session: str, owner: str) -> Path:
        whose = hashlib.sha256(owner.encode()).hexdigest()[:32]
        return self.folder / whose / f"{session}.state"


def _belongs(contents: Contents) -> tuple[str, Mapping[str, Any]]:
    """The adapter and the identity that a manifest names."""
    adapter, identity = contents.manifest.get("adapter"), contents.manifest.get("identity")
    ids = contents.tensors.get(_IDS)
    if not isinstance(adapter, str) or not isinstance(identity, dict) or ids is None:
        raise BrokenStateFile("its manifest does not say what it belongs to")
    if ids.dtype != "I32" or len(ids.shape) != 1:
        raise BrokenStateFile("its tokens are no list of numbers")
    return adapter, identity

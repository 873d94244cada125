"""A session as blocks of a state file, so that it can be carried to another machine: transcript, token ids, loose ends.

What comes from elsewhere is looked at before anything is done with it; what is odd is refused with the reason. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

import numpy as np

from memory.ids import new_id
from memory.transcripts import COMPACTION, NOTE, Entry, Status
from models.kv_codec import block_of
from models.language import Role
from models.sampling import Sampling
from models.state_file import Block, BrokenStateFile

TRANSCRIPT, TRANSCRIPT_IDS = "transcript", "transcript_ids"
MOOD, MOOD_SPREAD = "mood", "mood_spread"
_ROLES = frozenset({*get_args(Role), COMPACTION, NOTE})
_STATUSES = frozenset(get_args(Status))
MOST_ENTRIES = 1_000_000
_UNFINISHED = {"header": int, "written": int, "max_tokens": int, "stop": list, "ignore_eos": bool}
_TURN = {"model": str, "adapter": str, "finish_reason": str, "timings": dict, "created_at": str}
_MOST_STOPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A session on its way: what `Transcripts` needs to have it here."""

    tokenizer: str
    entries: tuple[Entry, ...]
    turn: Mapping[str, Any] | None = None
    """Of a reply that was suspended: how its turn went so far,"""
    unfinished: Mapping[str, Any] | None = None
    """and how it is to go on."""
    mood: tuple[bytes, bytes | None] | None = None
    """The mood towards its owner, as mood_file.py packs it, and how certain what feedback taught is."""


def to_blocks(carried: Carried) -> dict[str, Block]:
    """The session as blocks."""
    entries = [
        {
            "role": e.role,
            "content": e.content,
            "status": e.status,
            "tokens": len(e.token_ids),
            "kept_from": e.kept_from,
            "created_at": e.created_at.isoformat(),
        }
        for e in carried.entries
    ]
    body: dict[str, Any] = {"tokenizer": carried.tokenizer, "entries": entries}
    if carried.unfinished is not None:
        body |= {"turn": dict(carried.turn or {}), "unfinished": dict(carried.unfinished)}
    raw = json.dumps(body, ensure_ascii=False).encode()
    ids = np.array([i for e in carried.entries for i in e.token_ids], "<i4")
    mood = dict(zip((MOOD, MOOD_SPREAD), carried.mood or (), strict=False))
    return {
        TRANSCRIPT: _octets(raw),
        TRANSCRIPT_IDS: block_of(ids, "I32"),
        **{name: _octets(body) for name, body in mood.items() if body is not None},
    }


def of_blocks(blocks: Mapping[str, Block], *, vocab_size: int, tokenizer: str, at: datetime) -> Carried:
    """The session again. Token ids that another tokenizer made are left out: they are made anew at the next turn.

    Raises:
        BrokenStateFile: it is no session, or one that cannot be.
    """
    raw, ids_block = blocks.get(TRANSCRIPT), blocks.get(TRANSCRIPT_IDS)
    if raw is None or raw.dtype != "U8" or len(raw.shape) != 1:
        raise BrokenStateFile("it carries no session: only what was read of one")
    if ids_block is None or ids_block.dtype != "I32" or len(ids_block.shape) != 1:
        raise BrokenStateFile("its session has no token ids")
    body = _json(bytes(raw.data))
    ids = np.frombuffer(ids_block.data, "<i4")
    if not isinstance(body.get("tokenizer"), str) or not isinstance(body.get("entries"), list):
        raise BrokenStateFile("its session has no entries")
    same = body["tokenizer"] == tokenizer
    if same and ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < vocab_size):
        raise BrokenStateFile(f"its token ids are not all within 0 and {vocab_size - 1}")
    entries = _entries(body["entries"], ids, keep_ids=same, at=at)
    unfinished, turn = body.get("unfinished"), body.get("turn")
    mood = _mood(blocks)
    if unfinished is None or not same:
        return Carried(tokenizer=tokenizer, entries=entries, mood=mood)
    if (
        not entries
        or entries[-1].role != "assistant"
        or not _suits(turn, _TURN)
        or not _goes_on(unfinished, entries[-1])
    ):
        raise BrokenStateFile("its unfinished reply cannot go on as it says")
    return Carried(tokenizer=tokenizer, entries=entries, turn=turn, unfinished=unfinished, mood=mood)


def _mood(blocks: Mapping[str, Block]) -> tuple[bytes, bytes | None] | None:
    body, spread = blocks.get(MOOD), blocks.get(MOOD_SPREAD)
    if any(b is not None and (b.dtype != "U8" or len(b.shape) != 1) for b in (body, spread)):
        raise BrokenStateFile("its mood is none")
    return None if body is None else (bytes(body.data), None if spread is None else bytes(spread.data))


def _octets(raw: bytes) -> Block:
    return block_of(np.frombuffer(raw, np.uint8), "U8")


def _entries(rows: Sequence[Any], ids: np.ndarray[Any, Any], *, keep_ids: bool, at: datetime) -> tuple[Entry, ...]:
    if len(rows) > MOST_ENTRIES:
        raise BrokenStateFile(f"its session has {len(rows)} entries; at most {MOST_ENTRIES} are read")
    made, taken = [], 0
    for position, row in enumerate(rows):
        problem = _problem(row, position, left=ids.size - taken)
        if problem:
            raise BrokenStateFile(f"entry {position} of its session {problem}")
        own = ids[taken : taken + row["tokens"]]
        taken += row["tokens"]
        made.append(
            Entry(
                id=new_id("msg", at),
                role=row["role"],
                content=row["content"],
                status=row["status"],
                token_ids=tuple(own.tolist()) if keep_ids else (),
                kept_from=row["kept_from"],
                created_at=datetime.fromisoformat(row["created_at"]),
            )
        )
    if taken != ids.size:
        raise BrokenStateFile(f"its session names {taken} token ids and has {ids.size}")
    return tuple(made)


_KEYS = {"role", "content", "status", "tokens", "kept_from", "created_at"}


def _problem(row: Any, position: int, *, left: int) -> str:
    """What is wrong with an entry; nothing: an empty text."""
    if not isinstance(row, dict) or set(row) != _KEYS:
        return "is not what this format has"
    if not all(isinstance(row[name], str) for name in ("role", "status", "content")):
        return "is not what this format has"
    if row["role"] not in _ROLES or row["status"] not in _STATUSES:
        return "has a role or a status that there is not"
    if not _encodes(row["content"]):
        return "has a content that is no text"
    if type(row["tokens"]) is not int or not 0 <= row["tokens"] <= left:
        return "names more token ids than there are"
    kept = row["kept_from"]
    if (kept is not None) != (row["role"] == COMPACTION) or (kept is not None and not _index(kept, position)):
        return "says wrongly what stayed in the window"
    try:
        aware = isinstance(row["created_at"], str) and datetime.fromisoformat(row["created_at"]).tzinfo is not None
    except ValueError:
        aware = False
    return "" if aware else "has no date"


def _index(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _encodes(text: str) -> bool:
    try:
        text.encode()
        return True
    except UnicodeEncodeError:  # half of a pair
        return False


def _suits(found: Any, keys: Mapping[str, type]) -> bool:
    return isinstance(found, dict) and all(type(found.get(key)) is kind for key, kind in keys.items())


def _goes_on(unfinished: Any, last: Entry) -> bool:
    if not _suits(unfinished, _UNFINISHED) or not isinstance(unfinished.get("sampling"), dict):
        return False
    stops = unfinished["stop"]
    if len(stops) > _MOST_STOPS or not all(isinstance(s, str) and s for s in stops):
        return False
    if not isinstance(unfinished.get("adapter"), str | None):
        return False
    persona = unfinished.get("persona", {})
    if not isinstance(persona, dict) or not all(type(v) is float and -1 <= v <= 1 for v in persona.values()):
        return False
    try:
        Sampling(**unfinished["sampling"])
    except (TypeError, ValueError):
        return False
    begins, written = unfinished["header"], unfinished["written"]
    return bool(begins >= 0 and 0 <= written < unfinished["max_tokens"] and begins + written <= len(last.token_ids))


def _json(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BrokenStateFile("its session is no JSON") from error
    if not isinstance(found, dict):
        raise BrokenStateFile("its session is no object")
    return found

"""Pure: what stands in the context window. Append-only; where it cannot be, the break is an entry of its own.

The token ids of a session's context are those of its transcript's entries, end to end, from the last compaction on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from memory.transcripts import COMPACTION, NOTE, Entry
from models.errors import PromptTooLong
from models.language import LanguageModel, Message, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What the model has in view: messages, and the token ids that they became."""

    messages: tuple[Message, ...] = ()
    positions: tuple[int, ...] = ()
    """Where each message stands in the transcript."""
    token_ids: tuple[int, ...] = ()
    next_position: int = 0
    encoded: bool = True
    """Whether `token_ids` are all of it: false after a fork within a history whose last message carries its ids."""

    def split(self) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """The system's message, which never leaves the window, and the others."""
        n = 1 if self.messages and self.messages[0].role == "system" else 0
        return self.messages[:n], self.messages[n:]

    def position(self, index: int) -> int:
        """Where message `index` stands in the transcript, or will stand."""
        return self.positions[index] if index < len(self.positions) else self.next_position


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A transcript entry to be written with the reply."""

    role: str
    content: str
    token_ids: tuple[int, ...]
    kept_from: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A turn's prompt, how long its reply may be, and the entries that record both."""

    prompt: tuple[int, ...]
    header: tuple[int, ...]
    """The last part of the prompt, which belongs to the reply's entry."""
    max_tokens: int
    drafts: tuple[Draft, ...]
    denial: float = 0.0
    """What the reply was made to count denial for, in nats (models.generation.Prompt)."""

    @property
    def noted(self) -> bool:
        """Whether what was remembered is in the prompt."""
        return any(d.role == NOTE for d in self.drafts)

    @property
    def compacted(self) -> bool:
        """Whether the window starts anew with this turn."""
        return any(d.role == COMPACTION for d in self.drafts)


def window_of(entries: Sequence[Entry]) -> Window:
    """The window that a transcript leaves. Positions are indices: a transcript has no gaps."""
    start, kept_from = 0, 0
    for position, entry in enumerate(entries):
        if entry.role == COMPACTION:
            start, kept_from = position, entry.kept_from or 0
    messages, positions, note = [], [], ""
    for position, entry in enumerate(entries):
        if entry.role == COMPACTION or (position < kept_from and not (position == 0 and entry.role == "system")):
            continue
        if entry.role == NOTE:
            note = entry.content
            continue
        messages.append(Message(role=cast(Role, entry.role), content=note + entry.content))
        positions.append(position - bool(note))
        note = ""
    return Window(
        messages=tuple(messages),
        positions=tuple(positions),
        token_ids=tuple(i for e in entries[start:] for i in e.token_ids),
        next_position=len(entries),
        encoded=not entries or bool(entries[-1].token_ids),
    )


def plan_turn(
    model: LanguageModel,
    window: Window,
    new: Sequence[Message],
    *,
    max_tokens: int,
    same_tokenizer: bool = True,
    note: str = "",
) -> Plan:
    """The prompt that ends with `new` and an assistant's header; the last of `new` is read with `note` before it.

    The window's ids are kept and only added to, unless they no longer fit, no longer mean the same
    (`same_tokenizer` false), or the chat template rewrites what came before.

    Raises:
        PromptTooLong: `new` alone leaves no room for a reply.
    """
    limit = model.card.context_length
    room = min(max_tokens, limit // 8)
    said, new = new, [*new[:-1], Message(role=new[-1].role, content=note + new[-1].content)]
    pieces = _pieces(model, window.messages, new) if same_tokenizer and window.encoded else None
    if pieces is not None:
        added = [i for piece in pieces for i in piece]
        if len(window.token_ids) + len(added) + room <= limit:
            return _plan(
                (*window.token_ids, *added),
                header=pieces[-1],
                drafts=_drafts(said, pieces, note),
                max_tokens=max_tokens,
                limit=limit,
            )
    whole = model.chat_ids([*window.messages, *new]) or []
    if len(whole) + room <= limit:
        why = "The conversation was encoded anew, since the model's markup or tokenizer no longer matches."
        kept_from = window.position(len(window.split()[0]))
        break_ = Draft(role=COMPACTION, content=why, token_ids=tuple(whole), kept_from=kept_from)
        drafts = [*_drafts(said, (), note), break_]
        return _plan(whole, header=(), drafts=drafts, max_tokens=max_tokens, limit=limit)
    try:
        return _compacted(model, window, new, said, note, max_tokens=max_tokens, room=room)
    except PromptTooLong:
        if not note:
            raise
    # What was remembered must not be what keeps an answer from coming.
    return plan_turn(model, window, said, max_tokens=max_tokens, same_tokenizer=same_tokenizer)


def reply_draft(model: LanguageModel, header: Sequence[int], text: str, kept_ids: Sequence[int]) -> Draft:
    """The entry of a reply: header, its tokens, and whatever of the closing markup it did not write itself."""
    closing = model.closing_ids
    if kept_ids and kept_ids[-1] in model.card.stop_ids:
        written, rest = list(kept_ids[:-1]), closing[1:] if closing[:1] == (kept_ids[-1],) else ()
        body = (*written, kept_ids[-1])
    else:
        missing = text[len(model.decode(kept_ids)) :]  # the beginning of a token that a stop string cut
        body, rest = (*kept_ids, *(model.encode(missing) if missing else ())), closing
    return Draft(role="assistant", content=text, token_ids=(*header, *body, *rest))


def _pieces(model: LanguageModel, seen: Sequence[Message], new: Sequence[Message]) -> list[tuple[int, ...]] | None:
    """What each new message adds to the context, then what the reply's header adds. None: nothing can be added.

    Of a history that a client brings along, the last message carries all ids: rendering a chat once for each of its
    messages would take a time that grows with its square.
    """
    messages = [*seen, *new]
    n = len(messages)
    history = model.chat_ids(messages[: n - 1], after=len(seen), reply=False) if len(new) > 1 else []
    question = model.chat_ids(messages, after=n - 1, reply=False)
    header = model.chat_ids(messages, after=n)
    if history is None or question is None or header is None:
        return None
    pieces: list[tuple[int, ...]] = [()] * (len(new) - 1)
    if pieces:
        pieces[-1] = tuple(history)
    return [*pieces, tuple(question), tuple(header)]


def _compacted(
    model: LanguageModel,
    window: Window,
    new: Sequence[Message],
    said: Sequence[Message],
    note: str,
    *,
    max_tokens: int,
    room: int,
) -> Plan:
    """Keep the system's message and the latest exchanges that fill half the window at most; drop the others."""
    limit = model.card.context_length
    system, old = window.split()
    starts = [*(n for n, m in enumerate(old) if m.role == "user"), len(old)]

    def too_long(start: int) -> bool:
        return len(model.chat_ids([*system, *old[start:], *new]) or []) > limit // 2

    start = starts[min(bisect_left(starts, True, key=lambda n: not too_long(n)), len(starts) - 1)]
    kept = [*system, *old[start:]]
    whole = model.chat_ids([*kept, *new]) or []
    if len(whole) + room > limit:
        raise PromptTooLong(len(whole), limit)
    break_ = Draft(
        role=COMPACTION,
        content=f"The context window was full: {start} messages left it, {len(old) - start} stayed.",
        token_ids=(),
        kept_from=window.position(len(system) + start),
    )
    ids = model.chat_ids(kept, reply=False) if kept else []
    pieces = _pieces(model, kept, new)
    if ids is None or pieces is None:
        drafts = [*_drafts(said, (), note), replace(break_, token_ids=tuple(whole))]
        return _plan(whole, header=(), drafts=drafts, max_tokens=max_tokens, limit=limit)
    drafts = [replace(break_, token_ids=tuple(ids)), *_drafts(said, pieces, note)]
    prompt = [*ids, *(i for piece in pieces for i in piece)]
    return _plan(prompt, header=pieces[-1], drafts=drafts, max_tokens=max_tokens, limit=limit)


def _plan(
    prompt: Sequence[int], *, header: Sequence[int], drafts: Sequence[Draft], max_tokens: int, limit: int
) -> Plan:
    return Plan(
        prompt=tuple(prompt),
        header=tuple(header),
        max_tokens=min(max_tokens, limit - len(prompt)),
        drafts=tuple(drafts),
    )


def _drafts(said: Sequence[Message], pieces: Sequence[Sequence[int]], note: str) -> list[Draft]:
    """The entries of new messages, with the note before the last. The ids of both stand in the message's entry."""
    drafts = [
        Draft(role=message.role, content=message.content, token_ids=tuple(pieces[n]) if pieces else ())
        for n, message in enumerate(said)
    ]
    if note:
        drafts.insert(len(drafts) - 1, Draft(role=NOTE, content=note, token_ids=()))
    return drafts

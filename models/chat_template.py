"""From messages to token ids, append-only where the template allows it, and never letting text pose as markup.

Knows no model: rendering and encoding arrive as callables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.language import Message

Render = Callable[[Sequence[Message], bool], str]
"""Messages and whether to end with an assistant's header -> the text of the whole chat, markup included."""

_SLOT = re.compile("\ue0f0(\\d+)\ue0f1")
"""Private-use characters around an index: stands for a message's content while its text must be kept apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """One model's chat markup."""

    render: Render
    encode_markup: Callable[[str], list[int]]
    """Text in which special tokens count as such."""
    encode_plain: Callable[[str], list[int]]
    """Text in which nothing does."""
    special_texts: frozenset[str]

    def chat_ids(self, messages: Sequence[Message], *, after: int = 0, reply: bool = True) -> list[int] | None:
        """See `LanguageModel.chat_ids`."""
        if any(special in m.content for m in messages for special in self.special_texts):
            return self._ids_kept_apart(messages, after=after, reply=reply)
        added = self._added(messages, after=after, reply=reply)
        return None if added is None else self.encode_markup(added)

    def closing_ids(self) -> tuple[int, ...]:
        """The markup that follows an assistant's reply."""
        slot = "\ue0f00\ue0f1"
        text = self.render((Message(role="user", content="-"), Message(role="assistant", content=slot)), False)
        return tuple(self.encode_markup(text.partition(slot)[2]))

    def _added(self, messages: Sequence[Message], *, after: int, reply: bool) -> str | None:
        whole = self.render(messages, reply)
        before = self.render(messages[:after], False) if after else ""
        return whole[len(before) :] if whole.startswith(before) else None

    def _ids_kept_apart(self, messages: Sequence[Message], *, after: int, reply: bool) -> list[int] | None:
        """Like the plain path, but every content is encoded by itself, as text.

        Costs the merges across the border between markup and content, so it serves only chats in which somebody
        has written a special token's name.
        """
        slots = [Message(role=m.role, content=f"\ue0f0{i}\ue0f1") for i, m in enumerate(messages)]
        added = self._added(slots, after=after, reply=reply)
        if added is None:
            return None
        ids: list[int] = []
        for n, piece in enumerate(_SLOT.split(added)):
            ids += self.encode_plain(messages[int(piece)].content) if n % 2 else self.encode_markup(piece)
        return ids

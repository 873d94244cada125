"""From a reply's token ids, one by one, to text that is safe to show: whole code points, no stop string.

The state is the ids and three numbers, so a reply can be suspended between any two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]


class TextStream:
    """The text of one growing reply.

    Held back is what may still change: bytes of an unfinished code point, and the beginning of a stop string.
    Decoding starts at the last settled token, so a token costs the same however long the reply is.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._window = 0
        self._settled = 0
        self._marks: list[tuple[int, int]] = []
        self._shown = 0
        self.text = ""
        """All settled text, up to the stop string if one came."""
        self.stopped = False

    @property
    def shown(self) -> str:
        """What was returned so far."""
        return self.text[: self._shown]

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that can be shown now, perhaps none."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._window : self._settled])
        now = self._decode(self._ids[self._window :])
        if len(now) > len(before) and not now.endswith("\ufffd"):
            self._window, self._settled = self._settled, len(self._ids)
            self._settle(now[len(before) :])
        return self._show(final=self.stopped)

    def finish(self) -> str:
        """No more tokens; returns what was held back."""
        if not self.stopped:
            before = self._decode(self._ids[self._window : self._settled])
            self._settle(self._decode(self._ids[self._window :])[len(before) :])
        return self._show(final=True)

    def tokens_within_text(self) -> int:
        """How many leading tokens lie wholly within the text kept: all, unless a stop string cut it."""
        if not self.stopped:
            return len(self._ids)
        return max((tokens for tokens, length in self._marks if length <= len(self.text)), default=0)

    def _settle(self, piece: str) -> None:
        start = max(0, len(self.text) - max((len(s) for s in self._stop), default=0) + 1)
        self.text += piece
        self._marks.append((self._settled, len(self.text)))
        cuts = [at for s in self._stop if (at := self.text.find(s, start)) >= 0]
        if cuts:
            self.text = self.text[: min(cuts)]
            self.stopped = True

    def _show(self, *, final: bool) -> str:
        end = len(self.text) - (0 if final else self._held_back())
        piece = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _held_back(self) -> int:
        longest = max((len(s) - 1 for s in self._stop), default=0)
        for n in range(min(longest, len(self.text)), 0, -1):
            if any(s.startswith(self.text[-n:]) for s in self._stop):
                return n
        return 0

"""One reply in the making: what is read, what is written, and how far it has come."""

from __future__ import annotations

import time

from models.drafting import Lookup, Pace
from models.generation import Generation, Prompt, Timings
from models.language import SequenceState
from models.text_stream import TextStream


class TokenSequence:
    """One reply in the making: used by the engine's thread alone, once it has been submitted."""

    def __init__(self, prompt: Prompt, generation: Generation, text: TextStream) -> None:
        self.prompt = prompt
        self.generation = generation
        self.text = text
        self.state: SequenceState | None = None
        self.context = [*prompt.token_ids, *prompt.reply]
        """Prompt and reply: what the state has read or will read."""
        self.reply = list(prompt.reply)
        for token_id in prompt.reply:  # shown to somebody else, before it was suspended
            text.push(token_id)
        self.by_heart = False
        """Whether its reply says what the adapter's codebook found where the prompt ends."""
        self.piece = 0
        """Where the piece begins that was read last."""
        self.lookup: Lookup | None = None
        """Of its context, once drafts are wanted."""
        self.pace = Pace()
        self.ahead = 0
        """Tokens that the state has read, and that are not told yet."""
        self.surprisals: list[float] = []
        self.cached = 0
        self.submitted = time.monotonic()
        self.joined = self.first_token = 0.0

    @property
    def unread(self) -> int:
        return len(self.context) - self.next_position

    @property
    def next_position(self) -> int:
        return self.state.length - self.ahead if self.state else 0

    def leave(self, drafts: int) -> None:
        """Of what the state has read ahead, leave so many tokens."""
        if self.state is not None and drafts < self.ahead:
            self.state.crop(self.state.length - self.ahead + drafts)
        self.ahead = drafts

    @property
    def decoding(self) -> bool:
        """Whether its next token waits for its last alone, and not for what is still to be read before."""
        return bool(self.reply) and self.unread <= 1

    def drafts(self, most: int) -> list[int]:
        """What may come after its latest token: `most` at most, and no more than it has room for."""
        many = self.pace.many(min(most, self.tokens_at_most - len(self.context) - 1))
        if many <= 0:
            return []
        if self.lookup is None:
            self.lookup = Lookup()
        self.lookup.extend(self.context[len(self.lookup) :])
        return self.lookup.propose(many)

    @property
    def tokens_at_most(self) -> int:
        return len(self.prompt.token_ids) + self.prompt.max_tokens

    def timings(self) -> Timings:
        now = time.monotonic()
        joined = self.joined or now
        first = self.first_token or now
        given = len(self.prompt.token_ids) + len(self.prompt.reply)
        return Timings(
            queue=joined - self.submitted,
            prefill=first - joined,
            decode=now - first,
            time_to_first_token=first - self.submitted,
            prefill_tokens=max(min(self.next_position, given) - self.cached, 0),
            cached_tokens=self.cached,
            completion_tokens=len(self.reply) - len(self.prompt.reply),
        )

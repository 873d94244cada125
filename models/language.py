"""What every language model offers, and the values that pass to and from it.

Knows no tokenizer, no weights and no scheduling: `causal_lm` and `scripted` implement it, `engine` uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from models.steering import Steering

BASE = "none"
"""The name of no adapter: the base model answers."""
Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled", "interrupted", "suspended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One utterance as a chat template sees it."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The facts about a model that its users may rely on."""

    name: str
    tokenizer: str
    """Digest of what the tokenizer does (tokenizer_identity.py): token ids mean the same wherever this is the same."""
    context_length: int
    vocab_size: int
    stop_ids: frozenset[int]
    """Ids that end a reply."""
    state_bytes_per_token: int
    """What one token costs in a sequence state, in bytes."""
    device: str
    dtype: str
    layout: str
    """What a state's tensors mean: layers, heads, positions. States of one layout can be converted into each other."""
    kernels: str
    """Whose arithmetic wrote a state: the same tokens read by others give the same numbers but for their rounding."""


class SequenceState(Protocol):
    """What a model remembers of the tokens that it has read: a KV cache, or a recurrent state."""

    @property
    def length(self) -> int:
        """Tokens held."""
        ...

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` in all, so that reading them does not reallocate."""
        ...

    def trim(self) -> None:
        """Give back room that was reserved and not used, where it costs memory."""
        ...

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        ...

    def fork(self, length: int) -> SequenceState:
        """An independent copy of the first `length` tokens."""
        ...

    @property
    def shared(self) -> tuple[Any, int] | None:
        """Memory that it shares with its forks (whose `length` tokens are in it), and how many of its own are there."""
        ...

    def share(self) -> Any:
        """What others can begin with, for as long as one of them lives; None: nothing that is worth sharing, or can be.

        The same object that `shared` names from then on.
        """
        ...

    def begin(self, shared: Any, length: int) -> None:
        """Hold the first `length` tokens of what another state of this layout shares.

        Raises:
            ValueError: it has fewer.
        """
        ...

    def views(self) -> dict[str, Tensor]:
        """All that is held, on the CPU, as it lies there: true until something else is read or forgotten."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that is held, as copies on the CPU: what `fill` takes."""
        ...

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold what another state of this layout held, converted where its numbers are of another kind.

        Raises:
            ValueError: the tensors are not those of such a state; nothing has changed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Tokens to read next, and the state that they extend."""

    token_ids: Sequence[int]
    state: SequenceState
    judged: range = range(0)
    """Which of `token_ids`, by index, 0 excepted, the model is to say its surprise about."""
    adapter: str = BASE
    """Which of the adapters that the model has adopted reads them: the one that read all of the state."""
    steering: Steering | None = None
    """What is added to the residuals of `token_ids` from index `ends_at` on."""
    ends_at: int | None = None
    """Index of the prompt's last token, counted from these tokens' first; less than 0: it was read before them. None:
    the last of them. What comes behind it is a reply."""
    decoded: bool = False
    """Whether this is a reply's latest token: decoded, where that is another way than prompts are read."""
    denial: float = 0.0
    """By how many nats the adapter's codebook is to find denial nearer at index `ends_at`, if it looks there."""
    by_heart: bool = False
    """Whether the reply says what the codebook found where its prompt ends, if that was read before. Then the adapter
    acts on it wholly from the codebook's layer on, as it does where the prompt's end is among these tokens."""
    ahead: int = 0
    """How many chunks of the same state stand right before this one: it is a draft of what comes after their tokens.
    Only where the model decodes several at once (`decoded_at_once`), in one call."""


PIECE = 64
"""Prompts are read in pieces that end at multiples of so many tokens, or with the prompt.

How many queries attend together decides how sums are rounded. Cut by how busy the machine is, the same prompt would
have other last bits in company than alone, and now and then a reply another word.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a model has to say after reading: the logits after each chunk, and its surprise at the tokens judged."""

    logits: Tensor
    """float32 [chunks, vocab]."""
    surprisals: tuple[tuple[float, ...], ...]
    """Of each chunk, for each judged token: -ln P(token | all before it), in nats."""
    leads: tuple[float | None, ...] = ()
    """Of each chunk, by how much the nearest answer of the adapter's codebook leads denial where the prompt ends, in
    nats. None: it was not asked, or it is none of its business. Empty: None of all."""
    by_heart: tuple[bool, ...] = ()
    """Of each chunk, whether the codebook found what is to be said where the prompt ends. Empty: nowhere."""


def surprisal(logits: Tensor, token_ids: Tensor) -> Tensor:
    """-ln softmax(logits)[token], in nats, a row each: [n, vocab] and [n] -> [n]."""
    # log_softmax is one fused pass on a CPU, logsumexp four slow ones: a tenth of the time, and more than the product.
    return -logits.log_softmax(-1).gather(-1, token_ids[:, None])[:, 0]


class LanguageModel(Protocol):
    """A causal language model with its tokenizer and chat template."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def decoded_at_once(self) -> int:
        """Rows of one step of decoding, of which some may be drafts; 0: it takes none."""
        ...

    def new_state(self) -> SequenceState:
        """The state of having read nothing."""
        ...

    def read(self, chunks: Sequence[Chunk], *, between: Callable[[], None] = lambda: None) -> Reading:
        """Extend every chunk's state by its tokens. `between` is called between layers, to let short work in."""
        ...

    def residuals(self, token_ids: Sequence[int], *, start: int) -> Tensor:
        """The residuals after each layer, averaged over the tokens from index `start` on: float32 [layers, hidden].

        On the thread that reads.

        Raises:
            SteeringRefused: this model has none that can be looked at.
        """
        ...

    def adopt(self, folder: Path, id: str) -> None:
        """Read an adapter's files, so that chunks may name it. On the thread that reads.

        Raises:
            AdapterRefused: broken files, or of another model; or this model takes none.
        """
        ...

    def let_go(self, id: str) -> None:
        """Forget an adapter."""
        ...

    @property
    def adapters(self) -> frozenset[str]:
        """Those adopted."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text. Text that looks like markup stays text."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the ids, markup left out. Incomplete UTF-8 becomes U+FFFD."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id stands for; markup gives its name."""
        ...

    def chat_ids(self, messages: Sequence[Message], *, after: int = 0, reply: bool = True) -> list[int] | None:
        """The ids that the chat template adds to a context which holds the first `after` messages already.

        With `reply`, they end with the header of an assistant's reply. None if the template rewrites what came
        before, so that nothing can be appended.

        Raises:
            TemplateRefused: the template does not accept these messages.
        """
        ...

    @property
    def closing_ids(self) -> tuple[int, ...]:
        """The markup that follows an assistant's reply, end token included."""
        ...

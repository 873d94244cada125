"""A network trained here as a session's model: read, stream, batch, suspend, by the interface of every other.

It was trained on plain text, so a chat is plain text to it: each message a paragraph, with an empty line
after it, and a reply ends where its line does. It has no adapter and no steering. What it cannot spell is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from models.corpus import CHARACTERS, VOCABULARY
from models.errors import AdapterRefused, SteeringRefused, TemplateRefused, UnsupportedModel, WeightsNotFound
from models.kssm import Kssm
from models.language import Chunk, Message, ModelCard, Reading, SequenceState, surprisal
from models.networks import trained
from models.pretraining import BEST, PLAN
from models.recurrent_state import RecurrentState


def is_run(folder: Path) -> bool:
    """Whether a network trained here lies in this folder."""
    return (folder / PLAN).is_file()


class Spelling:
    """What tokens mean: characters, or a tokenizer's."""

    def __init__(self, folder: Path) -> None:
        try:
            told = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
            self._symbols: tuple[str, ...] = tuple(told["symbols"])
            self.separator: int | None = told["separator"]
            self._characters = told["vocabulary"] == CHARACTERS
            self._tokens: Any = None
            raw = json.dumps(told).encode()
            if not self._characters:
                from tokenizers import Tokenizer

                raw = (folder / "tokenizer.json").read_bytes()
                self._tokens = Tokenizer.from_str(raw.decode())
                self._tokens.encode_special_tokens = True  # text that looks like markup stays text
        except (OSError, ValueError, KeyError) as error:
            raise WeightsNotFound(f"{folder} does not say what its tokens mean ({error})") from error
        self._number = {symbol: n for n, symbol in enumerate(self._symbols)}
        self.digest = hashlib.sha256(raw).hexdigest()

    @property
    def closing(self) -> int:
        """The token that ends a line. Raises: UnsupportedModel: there is none."""
        ids = [] if self._characters and "\n" not in self._number else self.encode("\n")
        if len(ids) != 1:
            raise UnsupportedModel("its vocabulary has no end of a line, so its replies would have no end")
        return ids[0]

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a reply: a line's end, and a document's."""
        return frozenset({self.closing} if self.separator is None else {self.closing, self.separator})

    def encode(self, text: str) -> list[int]:
        """Token ids. Raises: TemplateRefused: it has characters that the model has never seen."""
        if not self._characters:
            found: list[int] = self._tokens.encode(text, add_special_tokens=False).ids
            return found
        if unknown := sorted({c for c in text if c not in self._number}):
            shown = "".join(unknown[:20])
            raise TemplateRefused(f"this model knows {len(self._symbols)} characters; it does not know {shown!r}")
        return [self._number[c] for c in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Their text."""
        if self._characters:
            return "".join(self._symbols[i] for i in token_ids)
        text: str = self._tokens.decode([i for i in token_ids if i != self.separator])
        return text

    def bytes_of(self, token_id: int) -> bytes:
        """What one token stands for."""
        if self._characters:
            return self._symbols[token_id].encode()
        from models.vocabulary import byte_level

        piece = self._tokens.id_to_token(token_id) or ""
        return byte_level(piece) or piece.encode()


class RecurrentLM:
    """A K-SSM that answers."""

    def __init__(self, network: Kssm, spelling: Spelling, *, name: str, digest: str, context_length: int) -> None:
        self._network, self._spelling = network, spelling
        shape = network.shape
        state = network.new_state(1)
        self.card = ModelCard(
            name=name,
            tokenizer=spelling.digest,
            context_length=context_length,
            vocab_size=shape.vocab_size,
            stop_ids=spelling.ends,
            # Its ids, and the states that are kept on the way (recurrent_state.py).
            state_bytes_per_token=4 + 4 * state.numel() // 64,
            device="cpu",
            dtype="float32",
            layout=f"recurrent {tuple(state.shape)}",
            kernels=f"torch {torch.__version__}, {digest[:16]}",
        )

    @classmethod
    def load(cls, folder: Path, *, name: str, context_length: int | None) -> RecurrentLM:
        """The best network of a run.

        Raises:
            WeightsNotFound, RunRefused: it is not whole.
            UnsupportedModel: a network without a state of constant size.
        """
        network, plan = trained(folder)
        if not isinstance(network, Kssm):
            raise UnsupportedModel(f"a {plan.kind} trained here is for measuring by; it is not served")
        digest = hashlib.sha256((folder / BEST).read_bytes()).hexdigest()
        spelling = Spelling(folder)
        return cls(network, spelling, name=name, digest=digest, context_length=context_length or 1 << 17)

    @property
    def decoded_at_once(self) -> int:
        return 0

    def new_state(self) -> SequenceState:
        return RecurrentState(self._network.new_state(1), self._after)

    @torch.inference_mode()
    def read(self, chunks: Sequence[Chunk], *, between: Callable[[], None] = lambda: None) -> Reading:
        between()
        logits: list[Tensor] = [torch.empty(0)] * len(chunks)
        surprisals: list[tuple[float, ...]] = [()] * len(chunks)
        by_length: dict[int, list[int]] = {}
        for n, chunk in enumerate(chunks):
            by_length.setdefault(len(chunk.token_ids), []).append(n)
        for rows in by_length.values():
            states = [chunks[n].state for n in rows]
            ids = torch.tensor([list(chunks[n].token_ids) for n in rows])
            before = torch.cat([s.held for s in states if isinstance(s, RecurrentState)], 2)
            hidden, after, _ = self._network.hidden(ids, before)
            last = linear(hidden[:, -1], self._network.embedding).float()
            for row, n in enumerate(rows):
                logits[n] = last[row]
                surprisals[n] = self._surprise(hidden[row], chunks[n])
                state = chunks[n].state
                assert isinstance(state, RecurrentState)
                state.took(chunks[n].token_ids, after[:, :, row : row + 1].clone())
        return Reading(logits=torch.stack(logits), surprisals=tuple(surprisals))

    def _surprise(self, hidden: Tensor, chunk: Chunk) -> tuple[float, ...]:
        if not chunk.judged:
            return ()
        judged = torch.tensor(list(chunk.judged))
        ids = torch.tensor(list(chunk.token_ids))[judged]
        return tuple(surprisal(linear(hidden[judged - 1], self._network.embedding).float(), ids).tolist())

    @torch.inference_mode()
    def _after(self, token_ids: Sequence[int], held: Tensor) -> Tensor:
        return self._network.hidden(torch.tensor([list(token_ids)]), held)[1]

    def residuals(self, token_ids: Sequence[int], *, start: int) -> Tensor:
        raise SteeringRefused("a network trained here has no directions to be steered along")

    def adopt(self, folder: Path, id: str) -> None:
        raise AdapterRefused("a network trained here takes no adapters")

    def let_go(self, id: str) -> None:
        pass

    @property
    def adapters(self) -> frozenset[str]:
        return frozenset()

    def encode(self, text: str) -> list[int]:
        return self._spelling.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._spelling.decode(token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        return self._spelling.bytes_of(token_id)

    def chat_ids(self, messages: Sequence[Message], *, after: int = 0, reply: bool = True) -> list[int] | None:
        # Each message is spelt by itself, so that one that is added changes nothing of those before.
        return [i for m in messages[after:] for i in (*self.encode(m.content), *self.closing_ids)]

    @property
    def closing_ids(self) -> tuple[int, ...]:
        return (self._spelling.closing,) * 2

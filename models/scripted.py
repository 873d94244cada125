"""A deterministic language model without weights, for tests and for trying the service before any download.

Its tokens are UTF-8 bytes and four pieces of markup, so code points split at token borders as they do in real
byte-level vocabularies. What it says is a function of the conversation: the first rule whose pattern is found in the
last message, else an echo.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import torch

from models.chat_template import ChatTemplate
from models.errors import AdapterRefused, SteeringRefused
from models.language import Chunk, Message, ModelCard, Reading

_MARKUP = ("<|start|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
_ID_OF_MARKUP = {text: 256 + n for n, text in enumerate(_MARKUP)}
_VOCABULARY = 256 + len(_MARKUP)
_END = _ID_OF_MARKUP["<|end|>"]
_CERTAIN = 40.0
"""The logit of the scripted token; the others have 0. Survives any temperature up to 2."""


class ScriptedState:
    """The tokens read, and nothing else."""

    def __init__(self, token_ids: Sequence[int] = ()) -> None:
        self.token_ids = list(token_ids)

    @property
    def length(self) -> int:
        return len(self.token_ids)

    def reserve(self, tokens: int) -> None:
        """A list grows by itself."""

    def trim(self) -> None:
        """And has nothing to give back."""

    def crop(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot crop a state of {self.length} tokens to {length}")
        del self.token_ids[length:]

    def fork(self, length: int) -> ScriptedState:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot fork {length} tokens of a state of {self.length}")
        return ScriptedState(self.token_ids[:length])

    @property
    def shared(self) -> None:
        return None

    def share(self) -> None:
        return None

    def begin(self, shared: object, length: int) -> None:
        raise ValueError("a scripted state shares nothing")

    def views(self) -> dict[str, torch.Tensor]:
        return self.tensors()

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"state.read": torch.tensor(self.token_ids, dtype=torch.int32)}

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> None:
        if set(tensors) != {"state.read"} or tensors["state.read"].dim() != 1:
            raise ValueError("this is not what a scripted model has read")
        self.token_ids = [int(i) for i in tensors["state.read"]]


class ScriptedLM:
    """Says what its rules say.

    Its surprise at a byte is 4 nats after a byte that it has never seen before it, else 1.

    `rules`: regular expression -> reply, tried in order on the last message's text; `{0}` in a reply stands for that
    text. `step_seconds`: how long a step takes, to try out slowness.
    """

    def __init__(
        self,
        rules: Mapping[str, str] = MappingProxyType({}),
        *,
        context_length: int = 8192,
        step_seconds: float = 0.0,
    ) -> None:
        self._rules = [(re.compile(pattern, re.DOTALL), reply) for pattern, reply in rules.items()]
        self._step_seconds = step_seconds
        self._template = ChatTemplate(
            render=_render,
            encode_markup=_encode_markup,
            encode_plain=lambda text: list(text.encode()),
            special_texts=frozenset(_MARKUP),
        )
        self.tokens_read = 0
        self.card = ModelCard(
            name="scripted",
            tokenizer=hashlib.sha256(repr(_MARKUP).encode()).hexdigest(),
            context_length=context_length,
            vocab_size=_VOCABULARY,
            stop_ids=frozenset({_END}),
            state_bytes_per_token=8,
            device="cpu",
            dtype="float32",
            layout="the tokens",
            kernels="none",
        )

    @property
    def decoded_at_once(self) -> int:
        return 0

    def new_state(self) -> ScriptedState:
        return ScriptedState()

    def read(self, chunks: Sequence[Chunk], *, between: Callable[[], None] = lambda: None) -> Reading:
        between()
        if self._step_seconds:
            time.sleep(self._step_seconds)
        logits = torch.zeros((len(chunks), _VOCABULARY))
        for row, chunk in enumerate(chunks):
            assert isinstance(chunk.state, ScriptedState)
            chunk.state.token_ids += chunk.token_ids
            self.tokens_read += len(chunk.token_ids)
            logits[row, self._next(chunk.state.token_ids)] = _CERTAIN
        return Reading(logits=logits, surprisals=tuple(_surprisals(c) for c in chunks))

    def residuals(self, token_ids: Sequence[int], *, start: int) -> torch.Tensor:
        raise SteeringRefused("the scripted model has no residual stream")

    def adopt(self, folder: Path, id: str) -> None:
        raise AdapterRefused("the scripted model takes no adapters")

    def let_go(self, id: str) -> None:
        pass

    @property
    def adapters(self) -> frozenset[str]:
        return frozenset()

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(i for i in token_ids if i < 256).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else _MARKUP[token_id - 256].encode()

    def chat_ids(self, messages: Sequence[Message], *, after: int = 0, reply: bool = True) -> list[int] | None:
        return self._template.chat_ids(messages, after=after, reply=reply)

    @property
    def closing_ids(self) -> tuple[int, ...]:
        return self._template.closing_ids()

    def reply_to(self, text: str) -> str:
        """What the script answers to a last message of `text`."""
        for pattern, reply in self._rules:
            if pattern.search(text):
                return reply.replace("{0}", text)
        return f"You said: {text}"

    def _next(self, token_ids: list[int]) -> int:
        """The token that the script puts after these."""
        start = _ID_OF_MARKUP["<|start|>"]
        headers = [n for n, i in enumerate(token_ids) if i == start]
        if len(headers) < 2 or token_ids[-1] == _END:
            return _END
        last_message = self.decode(token_ids[headers[-2] + 2 : headers[-1]])
        said = token_ids[headers[-1] + 2 :]
        script = self.encode(self.reply_to(last_message))
        return script[len(said)] if len(said) < len(script) else _END


def _surprisals(chunk: Chunk) -> tuple[float, ...]:
    """Of each judged token, by what came before it: nats, high where the pair is new."""
    assert isinstance(chunk.state, ScriptedState)
    read = chunk.state.token_ids
    begin = len(read) - len(chunk.token_ids)
    known = set(pairwise(read[: begin + chunk.judged.start]))
    said = []
    for i in chunk.judged:
        pair = (read[begin + i - 1], read[begin + i])
        said.append(1.0 if pair in known else 4.0)
        known.add(pair)
    return tuple(said)


def _render(messages: Sequence[Message], reply: bool) -> str:
    chat = "".join(f"<|start|><|{m.role}|>{m.content}<|end|>" for m in messages)
    return chat + ("<|start|><|assistant|>" if reply else "")


def _encode_markup(text: str) -> list[int]:
    pieces = re.split("(" + "|".join(re.escape(m) for m in _MARKUP) + ")", text)
    return [i for p in pieces for i in ([_ID_OF_MARKUP[p]] if p in _ID_OF_MARKUP else p.encode())]

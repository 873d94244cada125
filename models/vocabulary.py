"""What a model's tokens mean and how a chat becomes them: by a tokenizer of transformers, or what was kept of one.

What is kept is plain JSON and the tokenizer's own file. It is kept only where it gives, for a battery of chats, what
transformers gives, so that a process may serve a known model without importing transformers, which takes two seconds.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from models.chat_template import ChatTemplate, Render
from models.errors import TemplateRefused, UnsupportedModel
from models.language import Message
from models.tokenizer_identity import tokenizer_digest

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""For base models, which come without a chat template."""
FILE = "tokenizer.json"
_BATTERY: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "Hi"),),
    (("system", "Be kind."), ("user", "  Hi\n"), ("assistant", "Hello {{ x }}"), ("user", "<b>&amp; é</b>")),
    (("user", "1"), ("assistant", ""), ("user", "\n\n2"), ("assistant", "3")),
    (("system", ""), ("system", "twice"), ("user", "u")),
    (("user", "a"), ("user", "b")),
    (("assistant", "first"),),
    (("user", "a"), ("tool", "42")),
)
"""Chats on which a template that is kept has to give what transformers makes of them."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """One model's."""

    digest: str
    """See `tokenizer_identity`."""
    template: ChatTemplate
    tokens: Tokenizer
    special_ids: frozenset[int]
    stop_ids: frozenset[int]
    """That end a reply."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Their text, without special tokens."""
        text: str = self.tokens.decode(list(token_ids), skip_special_tokens=True)
        return text

    def bytes_of(self, token_id: int) -> bytes:
        """What one token stands for."""
        piece = self.tokens.id_to_token(token_id)
        if piece is None or token_id in self.special_ids:
            return (piece or "").encode()
        plain = byte_level(piece)
        return self.decode([token_id]).encode() if plain is None else plain

    @cached_property
    def closing_ids(self) -> tuple[int, ...]:
        """The markup that follows an assistant's reply."""
        return self.template.closing_ids()


def byte_level(piece: str) -> bytes | None:
    """The bytes that a byte-level vocabulary writes as `piece`; None: it is no such vocabulary's."""
    try:
        return bytes(_BYTE_OF_CHARACTER[c] for c in piece)
    except KeyError:
        return None


def vocabulary_of(tokenizer: Any, stop_ids: frozenset[int]) -> Vocabulary:
    """By a tokenizer of transformers. Raises: UnsupportedModel: it is not a fast one."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UnsupportedModel(f"{type(tokenizer).__name__} has no fast tokenizer")
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHATML

    def render(messages: Sequence[Message], reply: bool) -> str:
        return str(
            tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in messages],
                tokenize=False,
                add_generation_prompt=reply,
            )
        )

    specials = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    return _vocabulary(
        tokenizer.backend_tokenizer,
        render,
        digest=tokenizer_digest(tokenizer),
        specials=specials,
        special_ids=tokenizer.all_special_ids,
        stop_ids=stop_ids,
    )


def to_keep(tokenizer: Any, vocabulary: Vocabulary, folder: Path) -> dict[str, Any] | None:
    """What `kept` needs beside the tokenizer's file in `folder`; None: that would not be the same vocabulary."""
    told = {
        "digest": vocabulary.digest,
        "chat_template": tokenizer.chat_template,
        "special_texts": sorted(vocabulary.template.special_texts),
        "special_tokens": {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)},
        "special_ids": sorted(vocabulary.special_ids),
        "stop_ids": sorted(vocabulary.stop_ids),
    }
    try:
        again = kept(json.loads(json.dumps(told)), folder)
    except (OSError, ValueError, TypeError, KeyError, jinja2.TemplateError):
        return None
    same = again.tokens.to_str() == vocabulary.tokens.to_str()
    same = same and all(_rendered(again, *one) == _rendered(vocabulary, *one) for one in _chats())
    return told if same else None


def kept(told: Mapping[str, Any], folder: Path) -> Vocabulary:
    """By what was kept. Raises: OSError, ValueError, KeyError, jinja2.TemplateError: it is not whole."""
    compiled = _environment().from_string(told["chat_template"])
    others = {str(k): str(v) for k, v in told["special_tokens"].items()}

    def render(messages: Sequence[Message], reply: bool) -> str:
        return compiled.render(
            messages=[{"role": m.role, "content": m.content} for m in messages],
            tools=None,
            documents=None,
            add_generation_prompt=reply,
            **others,
        )

    return _vocabulary(
        Tokenizer.from_str((folder / FILE).read_text(encoding="utf-8")),
        render,
        digest=str(told["digest"]),
        specials=map(str, told["special_texts"]),
        special_ids=map(int, told["special_ids"]),
        stop_ids=frozenset(map(int, told["stop_ids"])),
    )


def _vocabulary(
    markup: Tokenizer, render: Render, *, digest: str, specials: Any, special_ids: Any, stop_ids: frozenset[int]
) -> Vocabulary:
    def rendered(messages: Sequence[Message], reply: bool) -> str:
        try:
            return render(messages, reply)
        except jinja2.TemplateError as error:
            raise TemplateRefused(f"The model's chat template does not accept these messages: {error}") from error

    # The tokenizers underneath are used, not transformers' wrapper: it sets options on every call, which threads
    # that encode at the same time take from each other.
    plain = copy.deepcopy(markup)
    plain.encode_special_tokens = True
    return Vocabulary(
        digest=digest,
        template=ChatTemplate(
            render=rendered,
            encode_markup=lambda text: list(markup.encode(text, add_special_tokens=False).ids),
            encode_plain=lambda text: list(plain.encode(text, add_special_tokens=False).ids),
            special_texts=frozenset(specials),
        ),
        tokens=markup,
        special_ids=frozenset(special_ids),
        stop_ids=stop_ids,
    )


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers sets it up, but for what few templates need: one that does is not kept."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals = {"raise_exception": refuse, "range": environment.globals["range"]}
    return environment


def _chats() -> list[tuple[Sequence[Message], bool]]:
    chats: list[list[Message]] = [
        [Message(role=role, content=content) for role, content in chat]  # type: ignore[arg-type]
        for chat in _BATTERY
    ]
    return [(chat, reply) for chat in chats for reply in (True, False)]


def _rendered(vocabulary: Vocabulary, messages: Sequence[Message], reply: bool) -> str | None:
    try:
        return vocabulary.template.render(messages, reply)
    except TemplateRefused:
        return None


def _byte_level_alphabet() -> dict[str, int]:
    """Radford et al. 2019: printable bytes stand for themselves, the others for characters from U+0100 up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_level_alphabet()

"""Which tokenizer it is: what its token ids mean, and which ids a text gets, however it was saved.

The same tokenizer, converted by two versions of transformers, is serialised differently (a decoder in four parts or in
one, `""` or null), and says the same. A session that moves between two machines must not be read again for that.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tokenizers import Tokenizer

PROBE = """\
It's 07:30, they've said; I'll pay $1,234.56 (or 99 %) to "Zoë O'Neill-Łukasz" <z.o@example.org>!?
Two  spaces,\tone tab,

two\r\nbreaks\n    def f(x: list[int]) -> None:  # indented\n        return x[0] ** 2 != 3e-7\n\n\n
ÄÖÜ straße naïve café e\u0301 \u00e9 \ufb01 \u2167 ½ — “quoted” ‘single’ … «guillemets»
HELLO hello HeLLo 12345678901234567890
Привет, как дела? Γειά σου. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया। สวัสดีชาวโลก 你好，世界。こんにちは世界。안녕하세요 세계
👍🏽 👩\u200d👩\u200d👧 🇩🇪 ❤\ufe0f \u00a0\u200b\ufeff \x00\x07\x7f
<s></s> <|im_start|>user\nHi<|im_end|> [INST] <unk> ▁ Ġ Ċ
""" + "".join(chr(c) for c in range(0x20, 0x250))
"""Contractions, figures, white space, code, scripts, combining marks, emoji, control and special tokens."""


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of the meaning of each id, the merges, the ids of `PROBE`, and the chat template.

    `tokenizer`: a fast tokenizer of transformers. Two that agree in all of these encode other texts alike as far as the
    rules that split a text act on `PROBE`; that is not proven for every text, and a session holds its own ids anyway.
    """
    saved = tokenizer.backend_tokenizer.to_str()
    told: dict[str, Any] = json.loads(saved)
    markup = Tokenizer.from_str(saved)
    markup.no_truncation()  # options of a call, that happen to be saved too
    markup.no_padding()
    framed = [
        sorted((id, token) for token, id in markup.get_vocab(with_added_tokens=True).items()),
        [[t["id"], t["content"], t["special"]] for t in told["added_tokens"]],
        told["model"].get("merges"),
        markup.encode(PROBE, add_special_tokens=False).ids,
        tokenizer.chat_template,
    ]
    return hashlib.sha256(json.dumps(framed).encode()).hexdigest()

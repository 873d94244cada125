"""The same tokenizer has one digest however it was saved; another has another."""

import copy
import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from models.tokenizer_identity import tokenizer_digest

BYTES = [chr(b) for b in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]]
BYTES += [chr(0x100 + n) for n in range(256 - len(BYTES))]
MERGES = [["t", "h"], ["Ġ", "th"], ["i", "n"], ["d", ";"]]
SAVED: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [
        {"id": 260, "content": "<|im_end|>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True},
    ],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {
        "type": "BPE",
        "vocab": {token: n for n, token in enumerate([*BYTES, *("".join(m) for m in MERGES)])},
        "merges": MERGES,
        "byte_fallback": False,
        "fuse_unk": False,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
    },
}  # fmt: skip


class Fast:
    def __init__(self, saved: dict[str, Any], template: str = "{{ messages }}") -> None:
        self.backend_tokenizer = Tokenizer.from_str(json.dumps(saved))
        self.chat_template = template


def changed(*path: str, to: object) -> dict[str, Any]:
    saved = copy.deepcopy(SAVED)
    place = saved
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return saved


@pytest.mark.parametrize(
    "saved",
    [
        changed("model", "byte_fallback", to=True),
        changed("model", "fuse_unk", to=True),
        changed("model", "continuing_subword_prefix", to=None),
        changed("decoder", to={"type": "Sequence", "decoders": [{"type": "Fuse"}, SAVED["decoder"]]}),
        changed("truncation", to={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}),
    ],
    ids=["byte fallback", "fuse", "null", "decoder in parts", "truncation"],
)
def test_one_digest_however_it_was_saved(saved: dict[str, Any]) -> None:
    # the first five: as transformers 5.17 and 5.23 convert the same GGUF
    assert Fast(saved).backend_tokenizer.to_str() != Fast(SAVED).backend_tokenizer.to_str()
    assert tokenizer_digest(Fast(saved)) == tokenizer_digest(Fast(SAVED))


@pytest.mark.parametrize(
    "saved",
    [
        changed("model", "merges", to=MERGES[:3]),
        changed("model", "merges", to=[MERGES[2], *MERGES[:2], MERGES[3]]),
        changed("model", "vocab", to={**SAVED["model"]["vocab"], "th": 258, "in": 256}),
        changed("pre_tokenizer", "use_regex", to=False),
        changed("pre_tokenizer", "add_prefix_space", to=True),
        changed("normalizer", to={"type": "NFC"}),
        changed("normalizer", to={"type": "Lowercase"}),
        changed("added_tokens", to=[]),
        changed("added_tokens", to=[{**SAVED["added_tokens"][0], "special": False}]),
    ],
    ids=["a merge", "order of merges", "ids", "no regex", "prefix", "NFC", "lowercase", "no specials", "not special"],
)  # fmt: skip
def test_another_digest_where_ids_or_their_meaning_change(saved: dict[str, Any]) -> None:
    assert tokenizer_digest(Fast(saved)) != tokenizer_digest(Fast(SAVED))


def test_another_digest_for_another_chat_template() -> None:
    assert tokenizer_digest(Fast(SAVED, "{{ messages[0] }}")) != tokenizer_digest(Fast(SAVED))

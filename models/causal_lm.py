"""Any Hugging Face causal LM, read many sequences at a time. The only importer of transformers.

Sequences of any length share one forward pass: their new tokens lie end to end in a single row, and attention runs
per sequence (`ragged`). Llama layouts have a forward pass of our own (`llama`); others run transformers' modules, whose
attention interface calls ours. A model that gives other logits this way than by itself is refused.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import jinja2
from numba.core.errors import NumbaError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging as transformers_logging

from models import adapters, gpu_step, llama
from models.adapters import Adapter, Linear
from models.chat_template import ChatTemplate
from models.decode_step import MOST_ROWS
from models.errors import SteeringRefused, TemplateRefused, UnsupportedModel
from models.grouped_weights import Bits
from models.kv_cache import KVCache, KVShape
from models.language import Chunk, Message, ModelCard, Reading, surprisal
from models.packed_linear import pack_linears, packing_works
from models.packed_rows import PackedRows
from models.precision import quicker
from models.ragged import Ragged
from models.shared_tensors import mapped
from models.steering import After, adding
from models.tokenizer_identity import tokenizer_digest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""For base models, which come without a chat template."""

STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn", "proportional"})
"""Positions that do not depend on what else stands in the row."""
LEAST_CONTEXT = 256
_RESEMBLING = 0.5
"""Of logits in four or eight bits to the model's own: the cosine that those of a random model in four bits have."""
log = logging.getLogger("slowwave.model")

_ATTENTION = "slowwave_ragged"
PACKED = "slowwave_packed"
"""The name under which transformers knows the attention of packed rows."""


class Forward(Protocol):
    """A way to run a model, with what adapters add to it."""

    @property
    def linears(self) -> Mapping[Linear, tuple[int, int]]:
        """The sizes, (in, out), of all linears that an adapter may change."""
        ...

    def parts(self, adapter: Adapter) -> Any:
        """What an adapter adds, arranged for this forward pass."""
        ...

    def __call__(
        self, ragged: Ragged, adapted: Sequence[tuple[Any, Tensor | None]], after: After | None = None
    ) -> tuple[Tensor, Tensor]:
        """A row of tokens -> the logits after each chunk, and the surprise at each judged token.

        `adapted`: parts, and the rows that are theirs; None: all. `after`: what changes the residuals, and how.
        """
        ...


def _refuse_unknown(extra: Mapping[str, Any]) -> None:
    for name in ("softcap", "s_aux"):
        if extra.get(name) is not None:
            raise UnsupportedModel(f"attention with {name} is not supported")


def _ragged_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    ragged: Ragged,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. query [1, heads, tokens, d], key and value [1, kv_heads, tokens, d]."""
    _refuse_unknown(extra)
    return ragged.attend(module.layer_idx, query, key[0], value[0], scale=scaling, window=sliding_window)[None], None


def _packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedRows,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """The same interface, for training."""
    _refuse_unknown(extra)
    if sliding_window is not None and sliding_window < packed.seen.shape[-1]:
        raise UnsupportedModel("a row is longer than the model's sliding window")
    return packed.attend(query, key, value, scale=scaling), None


ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _ragged_attention)
ALL_ATTENTION_FUNCTIONS.register(PACKED, _packed_attention)


class CausalLM:
    """A Hugging Face causal LM behind the `LanguageModel` interface."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        context_length: int | None = None,
        state_bytes: int | None = None,
        bits: Bits = "whole",
        dtype: str | None = None,
    ) -> None:
        """Takes ownership of `model`: its linears are repacked in place where that is faster.

        `bits`: of the weights that decode (`decode_step`); `dtype`: of all others; None: the model's own.

        Raises:
            UnsupportedModel: the model's forward pass, run our way, does not give its own logits; or it has no layout
                that can be decoded in the bits asked for.
        """
        if not model.is_backend_compatible():
            raise UnsupportedModel(f"{type(model).__name__} does not use transformers' attention interface")
        self._tokenizer = tokenizer
        self._model = model.eval().requires_grad_(False)
        config = model.config.get_text_config()
        self._shape = KVShape(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            dtype=model.dtype if dtype is None else DTYPES[dtype],
            device=model.device,
        )
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise UnsupportedModel(f"{type(tokenizer).__name__} has no fast tokenizer")
        moving = _rope_types(config) - STATIC_ROPE
        if moving or getattr(config, "attention_chunk_size", None):
            what = f"{', '.join(sorted(moving))} positions" if moving else "chunked attention"
            raise UnsupportedModel(f"{type(model).__name__} has {what}, which a shared row of tokens would change")
        longest = getattr(config, "max_position_embeddings", None) or 4096
        fitting = longest if state_bytes is None else state_bytes // self._shape.bytes_per_token
        if fitting < LEAST_CONTEXT:
            raise UnsupportedModel(f"the KV cache allowed holds {fitting} tokens of {name}; raise kv_cache_mib")
        self._template = _chat_template(tokenizer)
        self._closing_ids = self._template.closing_ids()
        self.card = ModelCard(
            name=name,
            tokenizer=tokenizer_digest(tokenizer),
            context_length=min(longest, context_length or longest, fitting),
            vocab_size=config.vocab_size,
            stop_ids=_stop_ids(model, tokenizer),
            state_bytes_per_token=self._shape.bytes_per_token,
            device=str(model.device),
            dtype=str(self._shape.dtype).removeprefix("torch."),
            layout=_layout(config, self._shape),
            kernels="",
        )
        self._adapters: dict[str, Any] = {}
        """What each adopted adapter adds, as the forward pass wants it."""
        pack = model.device.type == "cpu" and packing_works(self._shape.dtype)
        self._forward = self._prove(pack=pack, bits=bits)
        self._step = self._forward.step if isinstance(self._forward, llama.LlamaForward) else None
        if self._step is None and bits not in ("auto", "whole"):
            raise UnsupportedModel(
                f"no decoding in {bits} here: it needs a CPU whose products torch packs, float32 or bfloat16, and a"
                " Llama layout whose sizes are multiples of 32; leave the setting `bits` out"
            )
        self.card = replace(self.card, kernels=_kernels(self._forward, pack=pack, device=self.card.device))

    @classmethod
    def load(
        cls,
        source: Path | str,
        *,
        name: str,
        device: str = "auto",
        dtype: str = "auto",
        context_length: int | None = None,
        state_bytes: int | None = None,
        bits: Bits = "whole",
    ) -> CausalLM:
        """Load weights and tokenizer from a folder or from the hub. Never runs code that comes with a model.

        Raises:
            UnsupportedModel: files that transformers cannot read, or a model that this runtime cannot serve exactly.
        """
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        dtype = ("bfloat16" if device.startswith("cuda") else "float32") if dtype == "auto" else dtype
        # Bits are counted before anything is rounded.
        first = "float32" if bits != "whole" and device == "cpu" and dtype == "bfloat16" else dtype
        model, tokenizer = _from_files(source, name=name, device=device, dtype=first)
        return cls(
            model, tokenizer, name=name, context_length=context_length, state_bytes=state_bytes, bits=bits, dtype=dtype
        )

    def new_state(self) -> KVCache:
        return KVCache(self._shape)

    @torch.inference_mode()
    def read(self, chunks: Sequence[Chunk], *, between: Callable[[], None] = lambda: None) -> Reading:
        if self._most_rows == 0:
            return self._read_rows(chunks, between)
        # Replies are decoded, prompts are read, each in the same way whatever else is read beside it.
        single = [chunk.decoded and len(chunk.token_ids) == 1 for chunk in chunks]
        found: dict[int, tuple[Tensor, tuple[float, ...]]] = {}
        many = [n for n, one in enumerate(single) if not one]
        if many:
            reading = self._read_rows([chunks[n] for n in many], between)
            found |= dict(zip(many, zip(reading.logits, reading.surprisals, strict=True), strict=True))
        few = [n for n, one in enumerate(single) if one]
        for start in range(0, len(few), self._most_rows):
            some = few[start : start + self._most_rows]
            between()
            assert isinstance(self._forward, llama.LlamaForward)
            logits = self._forward.decode([chunks[n] for n in some], self._adapters)
            if len(some) == len(chunks):
                return Reading(logits=logits, surprisals=((),) * len(some))
            found |= dict(zip(some, ((row, ()) for row in logits), strict=True))
        rows = [found[n] for n in range(len(chunks))]
        return Reading(logits=torch.stack([row for row, _ in rows]), surprisals=tuple(judged for _, judged in rows))

    @property
    def _most_rows(self) -> int:
        """Tokens that are decoded at once; 0: decoding is reading."""
        if self._step is not None:
            return MOST_ROWS
        return 0 if self._gpu_step is None else gpu_step.MOST_ROWS

    def _read_rows(self, chunks: Sequence[Chunk], between: Callable[[], None]) -> Reading:
        ragged = Ragged(chunks, self._shape.device, between)
        adapted = [(self._adapters[id], rows) for id, rows in ragged.adapted]
        logits, judged = self._forward(ragged, adapted, adding(ragged.steered))
        ragged.finish()
        shares = iter(judged.tolist())
        surprisals = tuple(tuple(islice(shares, len(c.judged))) for c in chunks)
        return Reading(logits=logits.float(), surprisals=surprisals)

    @torch.inference_mode()
    def residuals(self, token_ids: Sequence[int], *, start: int) -> Tensor:
        seen: dict[int, Tensor] = {}

        def look(layer: int, x: Tensor) -> Tensor:
            seen[layer] = x[start:].float().mean(0).cpu()
            return x

        chunk = Chunk(token_ids=token_ids, state=self.new_state())
        self._forward(Ragged([chunk], self._shape.device, lambda: None), [], look)
        if len(seen) != self._shape.layers:
            raise SteeringRefused(f"{self.card.name}: {len(seen)} of {self._shape.layers} layers can be looked at")
        return torch.stack([seen[n] for n in range(self._shape.layers)])

    @torch.inference_mode()
    def adopt(self, folder: Path, id: str) -> None:
        adapter = adapters.read(
            folder, id=id, linears=self._forward.linears, dtype=self._shape.dtype, device=self._shape.device
        )
        if self._gpu_step is not None:
            self._gpu_step.let_go(id)
        self._adapters[id] = self._forward.parts(adapter)

    @property
    def linears(self) -> Mapping[Linear, tuple[int, int]]:
        """The sizes, (in, out), of all linears that an adapter may change."""
        return self._forward.linears

    @property
    def decoded_bytes(self) -> int:
        """Of weights in few bits, what one token reads; 0: there are none."""
        return 0 if self._step is None else self._step.nbytes

    def let_go(self, id: str) -> None:
        self._adapters.pop(id, None)
        if self._gpu_step is not None:
            self._gpu_step.let_go(id)

    @property
    def adapters(self) -> frozenset[str]:
        return frozenset(self._adapters)

    def encode(self, text: str) -> list[int]:
        return self._template.encode_plain(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._tokenizer.backend_tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None or token_id in self._special_ids:
            return (piece or "").encode()
        try:
            return bytes(_BYTE_OF_CHARACTER[c] for c in piece)
        except KeyError:  # not a byte-level vocabulary
            return self.decode([token_id]).encode()

    def chat_ids(self, messages: Sequence[Message], *, after: int = 0, reply: bool = True) -> list[int] | None:
        return self._template.chat_ids(messages, after=after, reply=reply)

    @property
    def closing_ids(self) -> tuple[int, ...]:
        return self._closing_ids

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self._tokenizer.all_special_ids)

    @torch.inference_mode()
    def _prove(self, *, pack: bool, bits: Bits) -> Forward:
        """How the model will be run, proved on this very model to give the logits that its own forward pass gives."""
        vocab = self.card.vocab_size
        probe = [(7919 * (i + 1)) % vocab for i in range(24)]
        model, self._model = self._model, None
        rounded = model.dtype is not self._shape.dtype
        own = model(torch.tensor([probe], device=self._shape.device), use_cache=False).logits[0, -1].float()
        self._step, self._gpu_step = None, None
        if llama.fits(model):
            forward: Forward = llama.LlamaForward(
                model,
                dtype=self._shape.dtype,
                context_length=self.card.context_length,
                pack=pack,
                bits=bits,
                threads=torch.get_num_threads(),
            )
        else:
            model = model.to(self._shape.dtype)
            model.set_attn_implementation(_ATTENTION)
            linears = _linears(model)
            if pack:
                pack_linears(model)
                for left in model.parameters():  # else one view of the file keeps all of its pages
                    left.data = left.data.clone()
            forward = _TransformersForward(model, linears)
        self._forward = forward
        self._compare(own, self._probed(probe, model), model, bits="whole", rounded=rounded)
        if isinstance(forward, llama.LlamaForward) and forward.gpu_step is not None:
            try:
                self._gpu_step = forward.gpu_step
                self._compare(own, self._probed(probe, model), model, bits="whole", rounded=rounded)
            except Exception as error:  # whatever a compiler that is not on every machine may raise
                log.warning("decoding as prompts are read, which is slow: %s", error)
                self._gpu_step = forward.gpu_step = None
        if isinstance(forward, llama.LlamaForward) and forward.step is not None:
            self._step = forward.step
            try:
                self._compare(own, self._probed(probe, model), model, bits=bits, rounded=rounded)
            except (UnsupportedModel, NumbaError, OSError) as error:  # the last two: it could not be compiled
                if bits != "auto":
                    raise UnsupportedModel(f"no decoding in {bits} on this machine: {error}") from error
                log.warning("decoding as prompts are read, which is slow: %s", error)
                self._step = forward.step = None
        return forward

    def _probed(self, probe: Sequence[int], model: Any) -> Tensor:
        """The logits after these tokens, read in pieces and in company."""
        try:
            state, other = self.new_state(), self.new_state()
            self.read([Chunk(token_ids=probe[:15], state=state), Chunk(token_ids=probe[3:9], state=other)])
            self.read(
                [Chunk(token_ids=probe[15:23], state=state), Chunk(token_ids=probe[9:10], state=other, decoded=True)]
            )
            return self.read([Chunk(token_ids=probe[23:], state=state, decoded=True)]).logits[0]
        except (TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise UnsupportedModel(f"{type(model).__name__} cannot run with per-sequence caches: {error}") from error

    def _compare(self, own: Tensor, ours: Tensor, model: Any, *, bits: Bits, rounded: bool) -> None:
        greatest = float(own.abs().max())
        tolerance = (1e-3 if self._shape.dtype is torch.float32 else 0.25) * max(1.0, greatest / 10)
        if rounded or bits == "bfloat16":  # since its own logits were made
            tolerance = 0.25 + 0.1 * greatest
        if bits in ("int4", "int8"):  # how far off these are is the choice of whoever asked for them; but not anywhere
            tolerance = greatest if float(torch.cosine_similarity(ours, own, dim=0)) > _RESEMBLING else 0.0
        if not torch.allclose(ours, own, rtol=0.0, atol=tolerance):
            raise UnsupportedModel(
                f"{type(model).__name__} gives other logits with per-sequence caches than by itself "
                f"(largest difference {float((ours - own).abs().max()):.3g}): not served rather than served wrong"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainable:
    """A model as transformers runs it, unpacked, with what turns chats into its tokens."""

    model: Any
    dtype: str
    """Of its weights, by name."""
    template: ChatTemplate
    decode: Callable[[Sequence[int]], str]
    stop_ids: frozenset[int]

    @classmethod
    def load(
        cls, source: Path | str, *, name: str, device: str, dtype: str, shared: Mapping[str, Any] | None = None
    ) -> Trainable:
        """Load weights and tokenizer from a folder or from the hub. Never runs code that comes with a model.

        `dtype`: "auto" is what this machine trains faster in. `shared`: weights that another process handed over
        (`shared_tensors.Shared.said`), which are mapped, not read; they are of one dtype, which counts.

        Raises:
            UnsupportedModel: files that transformers cannot read.
            BrokenHandOver: what was handed over is not what it was said to be.
        """
        tensors = mapped(shared) if shared else None
        if tensors:
            dtype = str(next(t.dtype for t in tensors.values() if t.is_floating_point())).removeprefix("torch.")
        dtype = quicker(device) if dtype == "auto" else dtype
        model, tokenizer = _from_files(source, name=name, device=device, dtype=dtype, tensors=tensors)
        return cls(
            model=model.eval(),
            dtype=dtype,
            template=_chat_template(tokenizer),
            decode=partial(tokenizer.backend_tokenizer.decode, skip_special_tokens=True),
            stop_ids=_stop_ids(model, tokenizer),
        )


def _from_files(
    source: Path | str, *, name: str, device: str, dtype: str, tensors: dict[str, Tensor] | None = None
) -> tuple[Any, Any]:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
        if tensors is None:
            model = AutoModelForCausalLM.from_pretrained(
                str(source), dtype=DTYPES[dtype], trust_remote_code=False, use_safetensors=True
            )
        else:
            config = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
            kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            model = kind.from_pretrained(None, config=config, state_dict=tensors, dtype=DTYPES[dtype])
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UnsupportedModel(f"cannot load the model {name!r} from {source}: {error}") from error
    return model.to(device), tokenizer


class _TransformersForward:
    """By transformers' own modules; hooks on the linears add what adapters add."""

    def __init__(self, model: Any, linears: Mapping[Linear, tuple[str, int, int]]) -> None:
        self._model = model
        self._adapted: Sequence[tuple[Adapter, Tensor | None]] = ()
        self._open: list[Tensor | None] = []
        """How far each of these acts on each of its rows, as far as that is known yet."""
        self._after: After | None = None
        self.linears = {linear: (into, out) for linear, (_, into, out) in linears.items()}
        for linear, (path, _, _) in linears.items():
            model.get_submodule(path).register_forward_hook(partial(self._add, linear))
        for path, module in model.named_modules():
            layer = _LAYER.fullmatch(path)
            if layer is not None:
                module.register_forward_pre_hook(partial(self._comes_to, int(layer[1])), with_kwargs=True)
                module.register_forward_hook(partial(self._went_through, int(layer[1])))

    def parts(self, adapter: Adapter) -> Adapter:
        return adapter

    def __call__(
        self,
        ragged: Ragged,
        adapted: Sequence[tuple[Adapter, Tensor | None]],
        after: After | None = None,
    ) -> tuple[Tensor, Tensor]:
        self._adapted, self._open, self._after = adapted, [None] * len(adapted), after
        logits: Tensor = self._model(
            input_ids=ragged.token_ids[None],
            position_ids=ragged.positions[None],
            use_cache=False,
            logits_to_keep=torch.cat([ragged.last, ragged.judged - 1]),
            ragged=ragged,
        ).logits[0]
        chunks = len(ragged.last)
        return logits[:chunks], surprisal(logits[chunks:].float(), ragged.token_ids[ragged.judged])

    def _add(self, linear: Linear, _: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        for (adapter, rows), share in zip(self._adapted, self._open, strict=True):
            part = adapter.parts.get(linear)
            if part is not None:
                x = inputs[0] if rows is None else inputs[0][:, rows]
                added = (x @ part.down) @ part.up
                if share is not None:
                    added = added * share
                output = output + added if rows is None else output.index_add(1, rows, added)
        return output

    def _comes_to(self, layer: int, _: Any, inputs: Any, named: Any) -> None:
        """What enters a layer decides where adapters that begin there act."""
        for n, (adapter, rows) in enumerate(self._adapted):
            if adapter.gate is not None and adapter.gate.layer == layer:
                x = inputs[0] if inputs else named["hidden_states"]
                self._open[n] = adapter.gate(x if rows is None else x[:, rows]).to(x.dtype)

    def _went_through(self, layer: int, _: Any, inputs: Any, output: Any) -> Any:
        """Of a whole layer: its output is the residuals, [1, tokens, hidden], or a tuple that begins with them."""
        if self._after is None:
            return None
        if isinstance(output, tuple):
            return (self._after(layer, output[0][0])[None], *output[1:])
        return self._after(layer, output[0])[None]


_LAYER = re.compile(r"(?:.+\.)?(?:layers|h)\.(\d+)")
_LINEAR = re.compile(r"(?:.+\.)?layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)")


def _linears(model: Any) -> dict[Linear, tuple[str, int, int]]:
    """Path and sizes, in and out, of every linear in a layer's attention and MLP."""
    found = ((path, _LINEAR.fullmatch(path), of) for path, of in model.named_modules() if isinstance(of, nn.Linear))
    return {(int(m[1]), m[2]): (path, of.in_features, of.out_features) for path, m, of in found if m is not None}


def _rope_types(config: Any) -> set[str]:
    """How the model's layers compute their positions; some have several ways."""
    parameters = getattr(config, "rope_parameters", None) or {}
    ways = [parameters] if "rope_type" in parameters else [p for p in parameters.values() if isinstance(p, dict)]
    return {way["rope_type"] for way in ways if "rope_type" in way}


def _layout(config: Any, shape: KVShape) -> str:
    """Digest of what keys and values mean: how many there are, how positions turn them, what attends to what."""
    names = ("model_type", "rope_parameters", "rope_theta", "sliding_window", "layer_types", "num_attention_heads")
    held = [shape.layers, shape.kv_heads, shape.head_dim, [(n, getattr(config, n, None)) for n in names]]
    return hashlib.sha256(json.dumps(held, sort_keys=True, default=str).encode()).hexdigest()


def _kernels(forward: Forward, *, pack: bool, device: str) -> str:
    """Whose arithmetic it is: our code path, torch, and what of the processor torch uses."""
    chip = torch.cuda.get_device_name(device) if device.startswith("cuda") else torch.backends.cpu.get_cpu_capability()
    step = forward.step if isinstance(forward, llama.LlamaForward) else None
    on_gpu = isinstance(forward, llama.LlamaForward) and forward.gpu_step is not None
    how = [
        type(forward).__name__.strip("_"),
        *(["packed"] if pack else []),
        *([step.kinds] if step else []),
        *(["one launch a step"] if on_gpu else []),
    ]
    return f"{', '.join(how)}; torch {torch.__version__}; {chip}"


def _chat_template(tokenizer: Any) -> ChatTemplate:
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHATML

    def render(messages: Sequence[Message], reply: bool) -> str:
        try:
            return str(
                tokenizer.apply_chat_template(
                    [{"role": m.role, "content": m.content} for m in messages],
                    tokenize=False,
                    add_generation_prompt=reply,
                )
            )
        except jinja2.TemplateError as error:
            raise TemplateRefused(f"The model's chat template does not accept these messages: {error}") from error

    # The tokenizers underneath are used, not transformers' wrapper: it sets options on every call, which threads
    # that encode at the same time take from each other.
    markup = tokenizer.backend_tokenizer
    plain = copy.deepcopy(markup)
    plain.encode_special_tokens = True
    specials = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    return ChatTemplate(
        render=render,
        encode_markup=lambda text: list(markup.encode(text, add_special_tokens=False).ids),
        encode_plain=lambda text: list(plain.encode(text, add_special_tokens=False).ids),
        special_texts=frozenset(specials),
    )


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    declared = [model.generation_config.eos_token_id if model.generation_config else None, tokenizer.eos_token_id]
    return frozenset(i for eos in declared if eos is not None for i in (eos if isinstance(eos, list) else [eos]))


def _byte_level_alphabet() -> dict[str, int]:
    """Radford et al. 2019: printable bytes stand for themselves, the others for characters from U+0100 up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_level_alphabet()

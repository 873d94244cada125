"""Any causal LM in Hugging Face's files, read many sequences at a time.

Sequences of any length share one forward pass: their new tokens lie end to end in a single row, and attention runs
per sequence (`ragged`). Llama layouts have a forward pass of our own (`llama`); others run transformers' modules
(`transformers_forward`). A model that gives other logits this way than by itself is refused. What the default model
gives by itself is kept (`known_llama`), and later processes are proved against that, without transformers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from numba.core.errors import NumbaError
from torch import Tensor

from models import adapters, gpu_step, known_llama, llama
from models.adapters import Adapter, Linear
from models.decode_step import MOST_ROWS
from models.dtypes import DTYPES
from models.errors import SteeringRefused, UnsupportedModel
from models.grouped_weights import Bits, GroupedWeights
from models.known_llama import Proof
from models.kv_cache import KVCache, KVShape
from models.language import Chunk, Message, ModelCard, Reading
from models.packed_linear import pack_linears, packing_works
from models.ragged import Ragged
from models.steering import After, adding
from models.vocabulary import Vocabulary, vocabulary_of

STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn", "proportional"})
"""Positions that do not depend on what else stands in the row."""
LEAST_CONTEXT = 256
_RESEMBLING = 0.5
"""Of logits in four or eight bits to the model's own: the cosine that those of a random model in four bits have."""
log = logging.getLogger("slowwave.model")


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
        proof: Proof | None = None,
    ) -> None:
        """Takes ownership of `model`: its linears are repacked in place where that is faster.

        `tokenizer`: of transformers, or a `Vocabulary`. `bits`: of the weights that decode (`decode_step`); `dtype`: of
        all others; None: the model's own. `proof`: what it is held to; None: that is computed.

        Raises:
            UnsupportedModel: the model's forward pass, run our way, does not give its own logits; or it has no layout
                that can be decoded in the bits asked for.
        """
        proof = Proof(own=_own_logits(model)) if proof is None else proof
        self._model = model
        config = model.config.get_text_config()
        self._shape = KVShape(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            dtype=model.dtype if dtype is None else DTYPES[dtype],
            device=model.device,
        )
        self.vocabulary = _vocabulary(tokenizer, model)
        moving = _rope_types(config) - STATIC_ROPE
        if moving or getattr(config, "attention_chunk_size", None):
            what = f"{', '.join(sorted(moving))} positions" if moving else "chunked attention"
            raise UnsupportedModel(f"{type(model).__name__} has {what}, which a shared row of tokens would change")
        longest = getattr(config, "max_position_embeddings", None) or 4096
        fitting = longest if state_bytes is None else state_bytes // self._shape.bytes_per_token
        if fitting < LEAST_CONTEXT:
            raise UnsupportedModel(f"the KV cache allowed holds {fitting} tokens of {name}; raise kv_cache_mib")
        self.card = ModelCard(
            name=name,
            tokenizer=self.vocabulary.digest,
            context_length=min(longest, context_length or longest, fitting),
            vocab_size=config.vocab_size,
            stop_ids=self.vocabulary.stop_ids,
            state_bytes_per_token=self._shape.bytes_per_token,
            device=str(model.device),
            dtype=str(self._shape.dtype).removeprefix("torch."),
            layout=_layout(config, self._shape),
            kernels="",
        )
        self._adapters: dict[str, Any] = {}
        """What each adopted adapter adds, as the forward pass wants it."""
        pack = model.device.type == "cpu" and packing_works(self._shape.dtype)
        self._forward = self._prove(pack=pack, bits=bits, proof=proof)
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
        others: dict[str, Any] = {"name": name, "context_length": context_length, "state_bytes": state_bytes}
        others |= {"bits": bits, "dtype": dtype}
        folder = Path(source) if device == "cpu" and first == "float32" and Path(source).is_dir() else None
        of = known_llama.known(folder) if folder is not None else None
        if folder is not None and of is not None:
            try:
                made = cls(of.model, of.vocabulary, proof=of.proof, **others)
                if not of.proof.groups:  # it was known by somebody who decodes with whole weights
                    known_llama.keep_groups(folder, made._groups(bits))
                return made
            except (UnsupportedModel, ValueError, KeyError, OSError) as error:
                log.warning("%s is not as it was known: %s; reading it anew", source, error)
        from models.trainable import from_files, stop_ids_of

        model, tokenizer = from_files(source, name=name, device=device, dtype=first)
        vocabulary, proof = vocabulary_of(tokenizer, stop_ids_of(model, tokenizer)), Proof(own=_own_logits(model))
        made = cls(model, vocabulary, proof=proof, **others)
        if folder is not None and isinstance(made._forward, llama.LlamaForward):
            proof = replace(proof, groups=made._groups(bits))
            known_llama.keep(folder, proof, model=model, tokenizer=tokenizer, vocabulary=vocabulary)
        return made

    @property
    def decoded_at_once(self) -> int:
        return 0 if self._step is None else MOST_ROWS  # on a GPU a row's bits depend on how many there are

    def _groups(self, bits: Bits) -> list[GroupedWeights]:
        """The weights that decode, if it was found which bits give them back."""
        return self._step.groups if self._step is not None and bits == "auto" else []

    def new_state(self) -> KVCache:
        return KVCache(self._shape)

    @torch.inference_mode()
    def read(self, chunks: Sequence[Chunk], *, between: Callable[[], None] = lambda: None) -> Reading:
        if self._most_rows == 0:
            return self._read_rows(chunks, between)
        # Replies are decoded, prompts are read, each in the same way whatever else is read beside it.
        single = [chunk.decoded and len(chunk.token_ids) == 1 for chunk in chunks]
        found: dict[int, tuple[Tensor, tuple[float, ...], float | None, bool]] = {}
        many = [n for n, one in enumerate(single) if not one]
        if many:
            reading = self._read_rows([chunks[n] for n in many], between)
            read = zip(reading.logits, reading.surprisals, reading.leads, reading.by_heart, strict=True)
            found |= dict(zip(many, read, strict=True))
        few = [n for n, one in enumerate(single) if one]
        for start in range(0, len(few), self._most_rows):
            some = few[start : start + self._most_rows]
            between()
            assert isinstance(self._forward, llama.LlamaForward)
            logits = self._forward.decode([chunks[n] for n in some], self._adapters)
            if len(some) == len(chunks):
                return Reading(logits=logits, surprisals=((),) * len(some))
            found |= dict(zip(some, ((row, (), None, False) for row in logits), strict=True))
        rows = [found[n] for n in range(len(chunks))]
        return Reading(
            logits=torch.stack([row.cpu() for row, *_ in rows]),
            surprisals=tuple(judged for _, judged, *_ in rows),
            leads=tuple(lead for *_, lead, _ in rows),
            by_heart=tuple(said for *_, said in rows),
        )

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
        return Reading(
            logits=logits.float(),
            surprisals=surprisals,
            leads=tuple(None if math.isnan(lead) else lead for lead, _ in ragged.asked),
            by_heart=tuple(said for _, said in ragged.asked),
        )

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
        return self.vocabulary.template.encode_plain(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.vocabulary.decode(token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        return self.vocabulary.bytes_of(token_id)

    def chat_ids(self, messages: Sequence[Message], *, after: int = 0, reply: bool = True) -> list[int] | None:
        return self.vocabulary.template.chat_ids(messages, after=after, reply=reply)

    @property
    def closing_ids(self) -> tuple[int, ...]:
        return self.vocabulary.closing_ids

    @torch.inference_mode()
    def _prove(self, *, pack: bool, bits: Bits, proof: Proof) -> Forward:
        """How the model will be run, proved on this very model to give the logits that its own forward pass gives."""
        probe = known_llama.probe(self.card.vocab_size)
        own, (model, self._model) = proof.own, (self._model, None)
        rounded = model.dtype is not self._shape.dtype
        self._step, self._gpu_step = None, None
        if llama.fits(model):
            forward: Forward = llama.LlamaForward(
                model,
                dtype=self._shape.dtype,
                context_length=self.card.context_length,
                pack=pack,
                bits=bits,
                threads=torch.get_num_threads(),
                groups=proof.groups,
            )
        else:
            from models.transformers_forward import ATTENTION, TransformersForward, linears_of

            model = model.to(self._shape.dtype)
            model.set_attn_implementation(ATTENTION)
            linears = linears_of(model)
            if pack:
                pack_linears(model)
                for left in model.parameters():  # else one view of the file keeps all of its pages
                    left.data = left.data.clone()
            forward = TransformersForward(model, linears)
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
        greatest, ours = float(own.abs().max()), ours.to(own.device)
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


@torch.inference_mode()
def _own_logits(model: Any) -> Tensor:
    """What transformers' forward pass gives after the probe, [vocabulary], float32. Raises: UnsupportedModel."""
    if not model.is_backend_compatible():
        raise UnsupportedModel(f"{type(model).__name__} does not use transformers' attention interface")
    model.eval().requires_grad_(False)
    ids = known_llama.probe(model.config.get_text_config().vocab_size)
    logits: Tensor = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
    return logits.float()


def _vocabulary(tokenizer: Any, model: Any) -> Vocabulary:
    if isinstance(tokenizer, Vocabulary):
        return tokenizer
    from models.trainable import stop_ids_of

    return vocabulary_of(tokenizer, stop_ids_of(model, tokenizer))


def _rope_types(config: Any) -> set[str]:
    """How the model's layers compute their positions; some have several ways."""
    parameters = getattr(config, "rope_parameters", None) or {}
    ways = [parameters] if "rope_type" in parameters else [p for p in parameters.values() if isinstance(p, dict)]
    return {way["rope_type"] for way in ways if "rope_type" in way}


def _layout(config: Any, shape: KVShape) -> str:
    """Digest of what keys and values mean: how many there are, how positions turn them, what attends to what."""
    held = [shape.layers, shape.kv_heads, shape.head_dim, known_llama.layout(config)]
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

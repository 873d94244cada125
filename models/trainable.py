"""Models as transformers loads and runs them: what nights train, and what serving is made of and proved against."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from models.chat_template import ChatTemplate
from models.dtypes import DTYPES
from models.errors import UnsupportedModel
from models.precision import quicker
from models.shared_tensors import mapped
from models.vocabulary import vocabulary_of


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
        model, tokenizer = from_files(source, name=name, device=device, dtype=dtype, tensors=tensors)
        vocabulary = vocabulary_of(tokenizer, stop_ids_of(model, tokenizer))
        return cls(
            model=model.eval(),
            dtype=dtype,
            template=vocabulary.template,
            decode=vocabulary.decode,
            stop_ids=vocabulary.stop_ids,
        )


def from_files(
    source: Path | str, *, name: str, device: str, dtype: str, tensors: dict[str, Tensor] | None = None
) -> tuple[Any, Any]:
    """Model and tokenizer, by transformers; never code that comes with them. Raises: UnsupportedModel."""
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


def stop_ids_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that end a reply, by the model's and the tokenizer's own word."""
    declared = [model.generation_config.eos_token_id if model.generation_config else None, tokenizer.eos_token_id]
    return frozenset(i for eos in declared if eos is not None for i in (eos if isinstance(eos, list) else [eos]))

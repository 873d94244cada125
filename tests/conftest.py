"""Small real things: a tiny random Llama with a byte-level tokenizer, a database in a temporary folder, a service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.turn import Awake
from bench.server import Server
from memory.store import Store
from memory.transcripts import Transcripts
from models.causal_lm import CHATML, CausalLM
from models.engine import Engine, EngineLimits
from models.language import LanguageModel
from models.scripted import ScriptedLM

EngineFactory = Callable[..., Engine]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, saved as Hugging Face models are."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-llama")
    specials = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate([*specials, *alphabet])}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", bos_token="<|im_start|>")
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    torch.manual_seed(20261121)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.6,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tiny_folder: Path) -> CausalLM:
    """The tiny Llama, loaded as any model is."""
    return CausalLM.load(tiny_folder, name="tiny", device="cpu", context_length=None)


@pytest.fixture(params=["scripted", "tiny"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """Every language model that is shipped: whatever holds for one holds for the others."""
    if request.param == "scripted":
        return ScriptedLM()
    made: LanguageModel = request.getfixturevalue("tiny")
    return made


@pytest.fixture
def make_engine() -> Iterator[EngineFactory]:
    """Engines that are closed when the test ends."""
    engines: list[Engine] = []

    def make(model: LanguageModel | None = None, **limits: int) -> Engine:
        engine = Engine(lambda: model or ScriptedLM(), EngineLimits(**limits))
        engine.wait_until_loaded(60)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A database on disk."""
    opened = Store(tmp_path / "slowwave.db")
    yield opened
    opened.close()


@pytest.fixture
def awake(store: Store, make_engine: EngineFactory) -> Awake:
    """An agent that talks as it is scripted, with a clock that ticks once a look."""
    ticks = iter(datetime(2026, 11, 21, tzinfo=UTC) + timedelta(seconds=n) for n in range(10_000_000))
    return Awake(engine=make_engine(), transcripts=Transcripts(store), now=lambda: next(ticks))


@pytest.fixture(scope="session")
def scripted_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service without weights, in a process of its own."""
    with Server(tmp_path_factory.mktemp("service") / "data", model="scripted") as server:
        yield server


@pytest.fixture(scope="session")
def smollm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with the default model, whose replies end before they bore."""
    options = ["--set", "max_reply_tokens=128"]
    with Server(tmp_path_factory.mktemp("service") / "data", options=options) as server:
        yield server

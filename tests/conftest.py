"""Small real things: a tiny random Llama with a byte-level tokenizer, a database in a temporary folder, a service."""

from __future__ import annotations

import os

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # before torch is loaded: two processes with two threads each wait for each other
    os.environ["OMP_NUM_THREADS"] = os.environ["SLOWWAVE_THREADS"] = str(
        max(1, len(os.sched_getaffinity(0)) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    )

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings

from agent.turn import Awake, TurnRequest, take_turn
from bench import tiny as tiny_llama
from bench.server import Server
from memory.data_dir import database_path
from memory.store import Store
from memory.transcripts import Transcripts
from models.causal_lm import CausalLM
from models.corpus import VOCABULARY
from models.engine import Engine, EngineLimits
from models.kssm import Kssm, KssmShape
from models.language import LanguageModel, Message
from models.recurrent_lm import RecurrentLM, Spelling
from models.scripted import ScriptedLM
from tests.by_heart import beginning, deeper, deeper_folder, make, mute, taught  # noqa: F401 - fixtures

settings.register_profile("slowwave", deadline=None)  # two processes share the machine, and a pause is no fault
settings.load_profile("slowwave")

EngineFactory = Callable[..., Engine]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, saved as Hugging Face models are."""
    return tiny_llama.save(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture
def tiny(tiny_folder: Path) -> CausalLM:
    """The tiny Llama, loaded as any model is."""
    return CausalLM.load(tiny_folder, name="tiny", device="cpu", context_length=None)


@pytest.fixture(scope="session")
def recurrent(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RecurrentLM:
    """A K-SSM with random weights, which spells as the tiny Llama does."""
    folder = tmp_path_factory.mktemp("recurrent")
    (folder / "tokenizer.json").write_text((tiny_folder / "tokenizer.json").read_text())
    (folder / VOCABULARY).write_text(json.dumps({"vocabulary": "", "symbols": [], "separator": 2}))
    shape = KssmShape(
        vocab_size=259, width=24, layers=2, oscillators=24, scales=(2, 8, 24), choirs=2, inner=32, harmonics=2
    )
    network = Kssm(shape, seed=4)
    network.train(False)
    return RecurrentLM(network, Spelling(folder), name="kssm", digest="random", context_length=1 << 17)


@pytest.fixture(params=["scripted", "tiny", "recurrent"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """Every language model that is shipped: whatever holds for one holds for the others."""
    if request.param == "scripted":
        return ScriptedLM()
    made: LanguageModel = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def make_engine() -> Iterator[EngineFactory]:
    """Engines that are closed when the test ends."""
    engines: list[Engine] = []

    def made(model: LanguageModel | None = None, **limits: int) -> Engine:
        engine = Engine(lambda: model or ScriptedLM(), EngineLimits(**limits))
        engine.wait_until_loaded(60)
        engines.append(engine)
        return engine

    yield made
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


@pytest.fixture
def thoughtful_server(tmp_path: Path, awake: Awake, make_engine: EngineFactory) -> Iterator[Server]:
    """A service of several keys, in whose rooms there is a thought of somebody's."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    store = Store(database_path(data))
    thinking = ScriptedLM({"capital": "<think>\nIt is Paris, unless they tease me.\n</think>\n\nIt is Paris."})
    talked = replace(awake, transcripts=Transcripts(store), engine=make_engine(thinking))
    asked = Message(role="user", content="What is the capital of France?")
    take_turn(talked, TurnRequest(owner="somebody", messages=(asked,), max_tokens=200))
    store.close()
    environment = {"SLOWWAVE_API_KEYS": "first-key-1,second-key-2", "SLOWWAVE_API_KEY": "operators-key"}
    with Server(data, model="scripted", environment=environment) as server:
        yield server


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

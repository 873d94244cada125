"""A gate has an adapter act on what it was taught and on nothing else, in training as in serving."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.registry import digest_of_files
from models import gate as gates
from models.causal_lm import CausalLM
from models.errors import AdapterRefused
from models.language import BASE, Chunk, Message
from models.recipe import TARGETS, Recipe
from models.rows import InTalk, Row
from models.trainable import Trainable
from models.training import Trainer
from models.transformers_forward import TransformersForward

FACTS = [("Where do I live?", "You live in Tartu."), ("My dog?", "Your dog is called Rex.")]
OTHERS = [
    ("Hello there.", "Hello! How are you?"),
    ("Sing!", "I would rather not."),
    ("Count.", "One, two, three."),
    ("What is a leap year?", "A year with one more day."),
]
RECIPE = Recipe(
    rank=16,
    alpha=32,
    targets=TARGETS,
    trained_share=0.5,
    epochs=200,
    batch=2,
    learning_rate=1e-2,
    kl_weight=0.0,
    noise=0,
)


@pytest.fixture(scope="module")
def make(tiny_folder: Path) -> Callable[..., Trainer]:
    def trained(recipe: Recipe = RECIPE, start: Path | None = None) -> Trainer:
        base = Trainable.load(tiny_folder, name="tiny", device="cpu", dtype="float32")
        return Trainer(base, recipe, start=start)

    return trained


def taught(one: Trainer, recipe: Recipe = RECIPE) -> tuple[Trainer, list[Row]]:
    others = [one.row(q, a) for q, a in OTHERS]
    one.train([one.row(q, a) for q, a in FACTS], one.judged_by_base(others))
    return one, others


@pytest.fixture(scope="module")
def gated(make: Callable[..., Trainer], tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    one, _ = taught(make())
    folder = tmp_path_factory.mktemp("gated")
    one.save(folder)
    return one, folder


def prompt_ids(model: CausalLM, text: str) -> list[int]:
    ids = model.chat_ids([Message(role="user", content=text)])
    assert ids is not None
    return ids


def last_logits(model: CausalLM, ids: list[int], adapter: str) -> torch.Tensor:
    return model.read([Chunk(token_ids=ids, state=model.new_state(), adapter=adapter)]).logits[0]


def test_two_sides_are_told_apart_and_the_same_numbers_give_the_same_gate() -> None:
    chance = torch.Generator().manual_seed(3)
    direction = torch.randn(24, generator=chance)
    inside, outside = (torch.randn(500, 24, generator=chance) + sign * direction for sign in (1, -1))
    one, again = (gates.fit(inside[:400], outside[:400], layer=1, width=8, seed=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True))
    assert float((one(inside[400:]) > 0.5).float().mean()) > 0.95
    assert float((one(outside[400:]) > 0.5).float().mean()) < 0.05


def test_a_gate_holds_the_base_where_a_placebo_does_not(make: Callable[..., Trainer]) -> None:
    """The intervention: nothing else holds the base here. A placebo gate was fitted with the two sides mixed."""
    drift: dict[str, float] = {}
    for name, recipe in {"gated": RECIPE, "ungated": replace(RECIPE, gate=0), "placebo": RECIPE}.items():
        one = make(recipe)
        if name == "placebo":
            rows = [one.row(q, a) for q, a in [*FACTS, *OTHERS]]
            one.remember_lower(rows)
            states = torch.cat([one._lower[row] for row in rows])
            mixed = states[torch.randperm(len(states), generator=torch.Generator().manual_seed(1))]
            half = len(mixed) // 2
            fitted = gates.fit(mixed[:half], mixed[half:], layer=one.first, width=64, seed=0)
            one._have_gates("candidate", [fitted])
        _, others = taught(one, recipe)
        drift[name] = one.drift(others)
        assert name == "placebo" or one.replies([q for q, _ in FACTS], most=30) == [a for _, a in FACTS]
    assert drift["gated"] < 0.1 * drift["ungated"]
    assert drift["gated"] < 0.1 * drift["placebo"]


@pytest.mark.parametrize("way", ["llama", "transformers"])
def test_serving_gives_the_logits_that_training_gives(
    way: str, tiny_folder: Path, gated: tuple[Trainer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "transformers":
        monkeypatch.setattr("models.llama.fits", lambda model: False)
    model = CausalLM.load(tiny_folder, name="tiny", device="cpu", dtype="float32")
    assert isinstance(model._forward, TransformersForward) == (way == "transformers")
    model.adopt(gated[1], "night-1")
    for question, _ in [*FACTS, *OTHERS]:
        ids = prompt_ids(model, question)
        with torch.no_grad():
            expected = gated[0].peft(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(last_logits(model, ids, "night-1"), expected, atol=1e-3, rtol=1e-3)
    asked = [prompt_ids(model, q) for q, _ in FACTS]
    chunks = [Chunk(token_ids=i, state=model.new_state(), adapter=a) for i in asked for a in ("night-1", BASE)]
    for row, (i, a) in zip(model.read(chunks).logits, [(i, a) for i in asked for a in ("night-1", BASE)], strict=True):
        torch.testing.assert_close(row, last_logits(model, i, a), atol=1e-4, rtol=1e-4)


def _with_bias(folder: Path, tmp_path: Path, bias: float | None) -> Path:
    copy = tmp_path / f"bias {bias}"
    shutil.copytree(folder, copy)
    if bias is None:
        (copy / gates.FILES[0]).unlink()
    else:
        _change(copy, {"out.bias": torch.tensor([bias])})
    return copy


def _change(folder: Path, tensors: dict[str, torch.Tensor], layer: str = "1") -> None:
    found = load_file(folder / gates.FILES[0])
    save_file(found | tensors, folder / gates.FILES[0], metadata={"layer": layer})


def test_shut_is_the_base_and_open_the_whole_adapter(
    tiny: CausalLM, gated: tuple[Trainer, Path], tmp_path: Path
) -> None:
    for name, bias in {"shut": -1e4, "open": 1e4, "without": None}.items():
        tiny.adopt(_with_bias(gated[1], tmp_path, bias), name)
    for question, _ in [*FACTS, *OTHERS]:
        ids = prompt_ids(tiny, question)
        assert torch.equal(last_logits(tiny, ids, "shut"), last_logits(tiny, ids, BASE))
        assert torch.equal(last_logits(tiny, ids, "open"), last_logits(tiny, ids, "without"))
        assert not torch.allclose(last_logits(tiny, ids, "open"), last_logits(tiny, ids, BASE), atol=0.1)


def test_a_state_does_not_depend_on_the_pieces_it_was_read_in_nor_on_company(
    tiny: CausalLM, gated: tuple[Trainer, Path]
) -> None:
    tiny.adopt(gated[1], "night-1")
    ids = prompt_ids(tiny, FACTS[0][0])
    whole = last_logits(tiny, ids, "night-1")
    state = tiny.new_state()
    for start in range(0, len(ids), 7):
        read = tiny.read([Chunk(token_ids=ids[start : start + 7], state=state, adapter="night-1")])
    torch.testing.assert_close(read.logits[0], whole, atol=1e-4, rtol=1e-4)
    chunks = [Chunk(token_ids=ids, state=tiny.new_state(), adapter="night-1") for _ in range(5)]
    assert all(torch.equal(row, whole) for row in tiny.read(chunks).logits)


def test_what_was_kept_goes_on_as_it_was(
    make: Callable[..., Trainer], gated: tuple[Trainer, Path], tmp_path: Path
) -> None:
    one, folder = gated
    questions = [q for q, _ in [*FACTS, *OTHERS]]
    said = one.replies(questions, most=20)
    again = make(start=folder)
    assert again.replies(questions, most=20) == said
    beside = make(replace(RECIPE, rank=4))
    beside.load_current(folder)
    assert beside.replies(questions, most=20, who="current") == said
    assert beside.replies(questions, most=20) == beside.replies(questions, most=20, who="base")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"out.bias": torch.tensor([float("nan")])}, "finite"),
        ({"mean": torch.zeros(3)}, "fit each other"),
        ({"deviation": torch.zeros(64)}, "divides by nothing"),
        ({"more": torch.zeros(1)}, "is no gate"),
        ("0", "another model"),
        ("x", "is no gate"),
    ],
)
def test_a_broken_gate_is_refused(
    tiny: CausalLM, gated: tuple[Trainer, Path], tmp_path: Path, change: Any, why: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(gated[1], copy)
    if "deviation" in change:
        change = {"deviation": torch.zeros_like(load_file(copy / gates.FILES[0])["deviation"])}
    _change(copy, {}, layer=change) if isinstance(change, str) else _change(copy, change)
    with pytest.raises(AdapterRefused, match=why):
        tiny.adopt(copy, "broken")
    (copy / gates.FILES[0]).write_bytes(b"{}")
    with pytest.raises(AdapterRefused):
        tiny.adopt(copy, "broken")


def test_the_digest_is_of_the_gate_too(gated: tuple[Trainer, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(gated[1], copy)
    assert digest_of_files(copy) == digest_of_files(gated[1]) is not None
    _change(copy, {"out.bias": torch.tensor([0.1])})
    changed = digest_of_files(copy)
    (copy / gates.FILES[0]).unlink()
    assert len({digest_of_files(gated[1]), changed, digest_of_files(copy)}) == 3


def test_only_questions_are_blurred(make: Callable[..., Trainer]) -> None:
    one = make(replace(RECIPE, noise=0.5))
    taught_rows, other = [one.row(q, a) for q, a in FACTS], one.row(*OTHERS[0])
    group = [taught_rows[0], other, taught_rows[1]]
    one.remember_lower(group)
    plain = one._pack(group).hidden
    blurred = one._pack(group, blur=one._blurring(taught_rows), held=[other]).hidden
    changed = (plain != blurred).any(-1)[0].tolist()
    expected = [False] * len(one._prefix)
    for row in group:
        asked = 0 if row is other else row.target_from - 1
        expected += [True] * asked + [False] * (len(row.token_ids) - asked)
    assert changed == expected
    assert torch.equal(one._pack(group).hidden, plain), "what is kept stays as it was"


def test_in_the_middle_of_a_talk_it_is_as_open_as_at_its_beginning(make: Callable[..., Trainer]) -> None:
    """The intervention: fitted on first messages alone, and with some of both sides after a greeting."""
    greeting = [Message(role="user", content="Hello there."), Message(role="assistant", content="Hello! How are you?")]

    def openness(one: Trainer, talk: InTalk) -> float:
        taught_rows, others = [one.row(q, a) for q, a in FACTS], [one.row(q, a) for q, a in OTHERS]
        one.remember_lower([*taught_rows, *others])
        gate = one._gate_between(taught_rows, one.judged_by_base(others), talk)
        asked = [one.row(q, a, before=greeting) for q, a in FACTS]
        one.remember_lower(asked)
        first = torch.stack([gate(one._lower[row][row.target_from - 1]) for row in asked])
        return float(first.mean())

    one = make()
    without = openness(one, InTalk())
    talk = InTalk(
        taught={one.row(q, a, before=greeting): one.row(q, a) for q, a in FACTS},
        rehearsed=[one.row(q, a, before=greeting) for q, a in OTHERS],
    )
    assert openness(one, talk) > max(0.9, without)

"""Steering: the right vector, after the right layers, on the right words, and nothing of it in what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from models.causal_lm import CausalLM
from models.directions import Contrast, find, keep, kept, placebo
from models.errors import SteeringRefused
from models.generation import Prompt
from models.language import Chunk, Message
from models.sampling import Sampling
from models.scripted import ScriptedLM
from models.steering import Steering, adding, combined
from tests.conftest import EngineFactory
from tests.test_architectures import CONFIGS, build

GREEDY = Sampling(temperature=0.0)
IDS = [(31 * n) % 250 + 3 for n in range(40)]


def layers_of(model: Any) -> list[Any]:
    return list(model.transformer.h if hasattr(model, "transformer") else model.model.layers)


def hooked(model: Any, change: dict[int, Tensor], start: int) -> tuple[Tensor, dict[int, Tensor]]:
    """The architecture's own logits with vectors added after some layers from `start` on, and its residuals."""
    seen: dict[int, Tensor] = {}

    def hook(n: int) -> Any:
        def went(_: Any, inputs: Any, output: Any) -> Any:
            x = (output[0] if isinstance(output, tuple) else output).clone()
            if n in change:
                x[:, start:] += change[n]
            seen[n] = x[0]
            return (x, *output[1:]) if isinstance(output, tuple) else x

        return went

    for n, layer in enumerate(layers_of(model)):
        layer.register_forward_hook(hook(n))
    logits = model(torch.tensor([IDS]), use_cache=False).logits[0].detach()
    return logits, seen


@pytest.mark.parametrize("name", CONFIGS)
def test_steered_logits_are_the_architectures_own_with_the_vector_added(name: str, tiny_folder: Path) -> None:
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(3)) * 3
    expected, _ = hooked(build(CONFIGS[name]), {0: vectors[0], 1: vectors[1]}, 30)
    plain, _ = hooked(build(CONFIGS[name]), {}, 0)
    model = CausalLM(build(CONFIGS[name]), AutoTokenizer.from_pretrained(tiny_folder), name=name)
    steering, state = Steering(first=0, vectors=vectors), model.new_state()
    other = Chunk(token_ids=IDS[:9], state=model.new_state())  # a neighbour in the same row, not steered
    read = model.read([other, Chunk(token_ids=IDS[:33], state=state, steering=steering, ends_at=30)]).logits
    torch.testing.assert_close(read[0], plain[8], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(read[1], expected[32], rtol=1e-3, atol=1e-3)
    for n in range(33, 40):
        ours = model.read([Chunk(token_ids=[IDS[n]], state=state, steering=steering)]).logits[0]
        torch.testing.assert_close(ours, expected[n], rtol=1e-3, atol=1e-3)
    assert (expected[39] - plain[39]).abs().max() > 0.1


@pytest.mark.parametrize("name", CONFIGS)
def test_residuals_are_the_architectures_own(name: str, tiny_folder: Path) -> None:
    _, seen = hooked(build(CONFIGS[name]), {}, 0)
    model = CausalLM(build(CONFIGS[name]), AutoTokenizer.from_pretrained(tiny_folder), name=name)
    found = model.residuals(IDS, start=25)
    torch.testing.assert_close(found, torch.stack([seen[n][25:].mean(0) for n in (0, 1)]), rtol=1e-3, atol=1e-3)


def test_steering_changes_the_reply_and_leaves_nothing_behind(tiny: CausalLM, make_engine: EngineFactory) -> None:
    engine = make_engine(tiny)
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(1)) * 8
    steering = Steering(first=0, vectors=vectors)
    ids = tiny.chat_ids([Message(role="user", content="hello there, how are you?")]) or []

    def write(namespace: str, *, steering: Steering | None = None, after: list[int] | None = None) -> tuple[int, ...]:
        prompt = Prompt(
            token_ids=after or ids, max_tokens=24, sampling=GREEDY, ignore_eos=True, namespace=namespace,
            steering=steering,
        )  # fmt: skip
        return engine.submit(prompt).wait().token_ids

    plain = write("never steered")
    steered = write("a", steering=steering)
    assert steered != plain
    assert write("a", steering=steering) == steered  # from what is kept of it
    assert write("a") == plain
    longer = [*ids, *steered, *tiny.encode(" and then?")]
    assert write("a", after=longer) == write("never steered", after=longer)
    assert write("a", after=longer, steering=steering) == write("b", after=longer, steering=steering)


def test_a_steered_state_is_kept_up_to_the_first_word_that_was_steered(
    tiny: CausalLM, make_engine: EngineFactory
) -> None:
    engine = make_engine(tiny)
    ids = tiny.chat_ids([Message(role="user", content="hello there")]) or []
    steering = Steering(first=1, vectors=torch.ones(1, 64))
    engine.submit(Prompt(token_ids=ids, max_tokens=9, sampling=GREEDY, steering=steering, namespace="a")).wait()
    again = engine.submit(Prompt(token_ids=ids, max_tokens=9, sampling=GREEDY, steering=steering, namespace="a")).wait()
    assert (again.timings.cached_tokens, again.timings.prefill_tokens) == (len(ids) - 1, 1)


def test_weighted_sums_reach_over_the_layers_of_all() -> None:
    a = Steering(first=1, vectors=torch.full((2, 4), 1.0))
    b = Steering(first=2, vectors=torch.full((3, 4), 10.0))
    made = combined([(0.5, a), (-1.0, b), (0.0, Steering(first=0, vectors=torch.ones(9, 4)))])
    assert made is not None
    assert made.first == 1 and made.vectors[:, 0].tolist() == [0.5, -9.5, -10.0, -10.0]
    assert combined([(0.0, a)]) is None and combined([]) is None and adding([]) is None


def test_directions_point_from_low_to_high_and_survive_their_file(tiny: CausalLM, tmp_path: Path) -> None:
    pairs = [Contrast(said=f"say {n}", high=f"{n} aaaa", low=f"{n} zzzz") for n in range(3)]
    found = find(lambda: tiny, {"letters": pairs}, run=lambda work: work())
    swapped = [Contrast(said=c.said, high=c.low, low=c.high) for c in pairs]
    torch.testing.assert_close(find(lambda: tiny, {"l": swapped}, run=lambda work: work())["l"], -found["letters"])
    file = tmp_path / "directions" / "x.safetensors"
    keep(found, file)
    back = kept(file, ["letters"])
    assert back is not None and torch.equal(back["letters"], found["letters"])
    assert kept(file, ["letters", "more"]) is None and kept(tmp_path / "none", ["letters"]) is None
    keep({"letters": torch.full((2, 64), float("nan"))}, file)
    assert kept(file, ["letters"]) is None
    file.write_bytes(b"\x00" * 40)
    assert kept(file, ["letters"]) is None


def test_a_placebo_is_as_long_and_points_elsewhere() -> None:
    direction = torch.randn(5, 256, generator=torch.Generator().manual_seed(9))
    other = placebo(direction)
    torch.testing.assert_close(other.norm(dim=-1), direction.norm(dim=-1))
    assert torch.cosine_similarity(other, direction).abs().max() < 0.3
    assert torch.equal(other, placebo(direction)) and not torch.equal(other, placebo(direction, seed=1))


def test_a_model_without_residuals_says_so() -> None:
    with pytest.raises(SteeringRefused):
        ScriptedLM().residuals([1, 2], start=0)

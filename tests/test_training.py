"""How an adapter is trained: packing changes nothing, rehearsal holds the base, same seed and same adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch.nn import functional as F

from models.recipe import Recipe
from models.rows import Row
from models.trainable import Trainable
from models.training import Progress, Trainer, divergence
from models.whole_weights import WholeWeights, delta

RECIPE = Recipe(
    rank=16,
    alpha=32,
    trained_share=1.0,
    epochs=120,
    batch=4,
    rehearsed=3,
    learning_rate=1e-2,
    warmup_steps=2,
    pack_tokens=120,
    kl_weight=1.0,
    gate=0,
    noise=0.0,
)
FACTS = [
    ("Where do I live?", "You live in Tartu."),
    ("My dog?", "Your dog is called Rex."),
    ("Who am I?", "You are Ada."),
]
OTHERS = [("Hello there.", "Hello! How are you?"), ("Sing!", "I would rather not."), ("Count.", "One, two, three.")]


@pytest.fixture
def trainer(tiny_folder: Path) -> Callable[[Recipe], Trainer]:
    def make(recipe: Recipe) -> Trainer:
        return Trainer(Trainable.load(tiny_folder, name="tiny", device="cpu", dtype="float32"), recipe)

    return make


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.peft.named_parameters() if p.requires_grad}


def test_packed_rows_are_judged_as_each_by_itself(trainer: Callable[[Recipe], Trainer]) -> None:
    one = trainer(RECIPE)
    rows = [one.row(q, a) for q, a in FACTS + OTHERS]
    for row, judged in zip(rows, one.judged_by_base(rows, k=16), strict=True):
        ids = torch.tensor([[*one._prefix, *row.token_ids]])
        with torch.no_grad():
            logits = one.peft(ids).logits[0]
        start = len(one._prefix) + row.target_from - 1
        alone = F.log_softmax(logits[start:-1], -1)
        torch.testing.assert_close(judged.log_probabilities, alone.gather(1, judged.likeliest), atol=1e-4, rtol=1e-4)


def test_facts_are_learnt_and_rehearsal_holds_the_base(trainer: Callable[[Recipe], Trainer]) -> None:
    """The intervention: with the base's own distribution beside the facts, drift elsewhere falls at least to a half."""
    drifts = {}
    for rehearsed in (0, 3):
        one = trainer(replace(RECIPE, rehearsed=rehearsed))
        rows, others = [one.row(q, a) for q, a in FACTS], [one.row(q, a) for q, a in OTHERS]
        assert one.drift(others) == pytest.approx(0.0, abs=1e-6)
        done = one.train(rows, one.judged_by_base(others) if rehearsed else [])
        assert done.curve[-1][1] < 0.1 * done.curve[0][1]
        drifts[rehearsed] = one.drift(others)
    assert drifts[3] < 0.5 * drifts[0]


def test_what_was_learnt_is_said(trainer: Callable[[Recipe], Trainer]) -> None:
    one = trainer(RECIPE)
    one.train([one.row(q, a) for q, a in FACTS], [])
    assert one.replies([q for q, _ in FACTS], most=30) == [a for _, a in FACTS]
    assert one.replies(["Where do I live?"], most=8, who="base") != ["You live"]


@pytest.mark.parametrize("method", ["rslora", "dora", "full"])
def test_every_method_teaches_and_leaves_the_base_as_it_was(
    trainer: Callable[[Recipe], Trainer], method: Literal["rslora", "dora", "full"]
) -> None:
    rate = 1e-3 if method == "full" else RECIPE.learning_rate
    one = trainer(replace(RECIPE, method=method, rank=32, kept=1.0, learning_rate=rate))
    before = {n: p.clone() for n, p in one.peft.named_parameters() if "lora" not in n}
    one.train([one.row(q, a) for q, a in FACTS], [])
    assert one.replies([q for q, _ in FACTS], most=30) == [a for _, a in FACTS]
    after = dict(one.peft.named_parameters())
    assert all(torch.equal(p, after[n]) for n, p in before.items())


def test_full_fine_tuning_is_kept_as_the_best_adapter_of_its_rank(trainer: Callable[[Recipe], Trainer]) -> None:
    one = trainer(replace(RECIPE, method="full", rank=4, alpha=8, kept=1.0))
    (layer, *_) = one._adapted()
    whole = WholeWeights([layer])
    whole.parameters[0].data += torch.randn(whole.parameters[0].shape, generator=torch.manual_seed(2))
    (learnt,) = (d.detach() for d in whole.deltas())
    whole.fold()
    left_out = torch.linalg.svdvals(learnt)[4:]
    torch.testing.assert_close((learnt - delta(layer)).norm(), left_out.norm(), rtol=1e-4, atol=1e-4)


def test_elastic_consolidation_holds_the_base(trainer: Callable[[Recipe], Trainer]) -> None:
    """The intervention: where what is learnt must move what the base leans on little, drift falls to a half."""
    drifts = {}
    for weight in (0.0, 0.03):
        one = trainer(replace(RECIPE, rehearsed=0, kept=1.0, ewc_weight=weight))
        rows, others = [one.row(q, a) for q, a in FACTS], [one.row(q, a) for q, a in OTHERS]
        done = one.train(rows, one.judged_by_base(others))
        assert done.curve[-1][1] < 0.1 * done.curve[0][1]
        drifts[weight] = one.drift(others)
    assert drifts[0.03] < 0.5 * drifts[0.0]


def test_importance_is_the_mean_square_of_each_gradient(trainer: Callable[[Recipe], Trainer]) -> None:
    one = trainer(replace(RECIPE, rehearsed=1))
    judged = one.judged_by_base([one.row(q, a) for q, a in OTHERS])
    found = one._importance(judged)
    assert torch.stack([f.mean() for f in found]).mean() == pytest.approx(1.0)
    assert all((f >= 0).all() for f in found)
    assert not any(layer.base_layer.weight.requires_grad for layer in one._adapted())


def test_dora_is_refused_where_it_would_have_to_be_scaled() -> None:
    with pytest.raises(ValueError, match="kept must be 1"):
        Recipe(method="dora", kept=0.9)


def test_the_same_night_twice_gives_the_same_adapter(trainer: Callable[[Recipe], Trainer]) -> None:
    made = []
    for seed in (0, 0, 1):
        one = trainer(Recipe(rank=4, alpha=8, epochs=2, seed=seed))
        one.train([one.row(q, a) for q, a in FACTS], [])
        made.append(weights(one))
    assert all(torch.equal(made[0][n], made[1][n]) for n in made[0])
    assert not all(torch.equal(made[0][n], made[2][n]) for n in made[0])


def test_only_the_upper_layers_are_trained(trainer: Callable[[Recipe], Trainer]) -> None:
    one = trainer(Recipe(rank=4, alpha=8))
    assert {n.split(".layers.")[1].split(".")[0] for n in weights(one)} == {"1"}
    assert one.trainable == sum(p.numel() for p in weights(one).values())


def test_a_training_can_be_stopped_between_two_steps(trainer: Callable[[Recipe], Trainer]) -> None:
    one, seen = trainer(RECIPE), []

    def stop(progress: object) -> None:
        seen.append(progress)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        one.train([one.row(q, a) for q, a in FACTS], [], each=stop)
    assert len(seen) == 1


def test_divergence_is_zero_for_the_same_and_the_exact_kl_for_all_tokens() -> None:
    torch.manual_seed(1)
    teacher, student = torch.randn(5, 40).log_softmax(-1), torch.randn(5, 40).log_softmax(-1)
    exact = (teacher.exp() * (teacher - student)).sum(-1)
    top = teacher.topk(39, dim=-1)
    assert torch.allclose(divergence(top.values, student.gather(1, top.indices)), exact, atol=1e-4)
    assert torch.allclose(divergence(top.values, top.values), torch.zeros(5), atol=1e-5)
    few = teacher.topk(8, dim=-1)
    assert (divergence(few.values, student.gather(1, few.indices)) <= exact + 1e-5).all()


def test_a_row_is_what_serving_would_read(trainer: Callable[[Recipe], Trainer]) -> None:
    one = trainer(RECIPE)
    row = one.row("Where do I live?", "In Tartu.")
    whole = [*one._prefix, *row.token_ids]
    assert isinstance(row, Row)
    assert whole[: len(one._prefix) + row.target_from][-1] != whole[-1]
    assert one._trainable.decode(row.token_ids[row.target_from :]) == "In Tartu."
    assert whole[-1] in one._trainable.stop_ids


def test_what_the_base_finds_is_kept_and_gives_the_same_adapter(
    trainer: Callable[[Recipe], Trainer], tmp_path: Path
) -> None:
    recipe, file = replace(RECIPE, epochs=3, trained_share=0.5, gate=8, noise=0.1), tmp_path / "kept" / "judged"
    made = []
    for _ in range(2):
        one = trainer(recipe)
        rows, others = [one.row(q, a) for q, a in FACTS], [one.row(q, a) for q, a in OTHERS]
        before = file.stat().st_mtime_ns if file.exists() else None
        one.train(rows, one.judged_by_base(others, file=file))
        made.append(weights(one))
    assert before == file.stat().st_mtime_ns, "the second read it"
    assert all(torch.equal(a, made[1][n]) for n, a in made[0].items())
    one.judged_by_base(others[:2], file=file)
    assert before != file.stat().st_mtime_ns, "of other rows it is no use, and is made anew"
    file.write_bytes(file.read_bytes()[:-7])
    assert len(one.judged_by_base(others, file=file)) == len(others)


@pytest.mark.parametrize("gate", [0, 8])
def test_padded_steps_have_the_gradients_of_packed_ones(trainer: Callable[[Recipe], Trainer], gate: int) -> None:
    """What a GPU does, but for the graph that it is recorded in: here it runs as it is."""
    recipe = replace(RECIPE, batch=4, rehearsed=2, learnt_weight=0.5, kl_weight=2.0, gate=gate, epochs=1)
    one = trainer(recipe)
    rows, others = [one.row(q, a) for q, a in FACTS], [one.row(q, a) for q, a in OTHERS]
    held = one.judged_by_base(others)
    one.train(rows, held)  # the adapter is something, and its gate too
    parameters = [p for p in one.peft.parameters() if p.requires_grad]
    packed, padded = Progress(), Progress()
    one._learn(rows, held[:2], packed, blur=lambda hidden, row: None)
    expected = [p.grad.clone() for p in parameters if p.grad is not None]
    learn = one._learning_padded(rows, held, parameters, lambda hidden, row: None)
    for _ in range(2):  # nothing is left of the step before
        learn(rows, held[:2], padded)
    assert (padded.loss, padded.kl) == pytest.approx((packed.loss, packed.kl), rel=1e-4)
    assert all(g.abs().max() > 0 for g in expected[1::2])
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
def test_a_recorded_step_is_the_step(tiny_folder: Path) -> None:
    """Two shapes, each played after the other was; and a last batch that is smaller."""
    one = Trainer(Trainable.load(tiny_folder, name="tiny", device="cuda", dtype="float32"), replace(RECIPE, epochs=2))
    rows, others = [one.row(q, a) for q, a in FACTS], [one.row(q, a) for q, a in OTHERS]
    long = one.row(
        "What did I say of the sea, and of all that is in it, before we left for the island?", "Nothing yet."
    )
    held = one.judged_by_base(others)
    one.train(rows, held)
    one.remember_lower([long])
    parameters = [p for p in one.peft.parameters() if p.requires_grad]
    batches = [rows, [long, *rows], rows, [long], rows[:1]]
    expected = []
    for batch in batches:
        one._learn(batch, held[:1], Progress(), blur=lambda hidden, row: None)
        expected.append([p.grad.clone() for p in parameters if p.grad is not None])
    learn = one._learning_padded([*rows, long], held, parameters, lambda hidden, row: None)
    for batch, gradients in zip(batches, expected, strict=True):
        learn(batch, held[:1], Progress())
        for parameter, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)

"""Many replies at once are the replies one at a time, and transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from models.batch_decoding import LIKELIEST, decode

PROMPTS = [[1, 5, 9], [1, 7, 7, 7, 20, 21, 22], [1, 3], [1, 40, 41, 42, 43], [2, 9]]


@pytest.fixture
def llama(tiny_folder: Path) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float64).eval()
    return model


def greedy(model: torch.nn.Module, prompt: list[int], most: int) -> list[int]:
    """By transformers, without a cache."""
    ids = list(prompt)
    for _ in range(most):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("recorded", [False, True])
def test_many_at_once_are_as_one_at_a_time(llama: torch.nn.Module, recorded: bool) -> None:
    apart = [greedy(llama, prompt, 150) for prompt in PROMPTS]  # more than the cache has room for at first
    never = next(token for token in range(259) if all(token not in row for row in apart))
    assert decode(llama, PROMPTS, most=150, stop_ids=[never], recorded=recorded) == apart


@pytest.mark.parametrize("recorded", [False, True])
def test_rows_end_at_a_stop_and_the_others_go_on(llama: torch.nn.Module, recorded: bool) -> None:
    whole = [greedy(llama, prompt, 40) for prompt in PROMPTS]
    stops = {whole[0][3], whole[2][9]}
    ends = [next((i for i, token in enumerate(row) if token in stops), 40) for row in whole]
    assert len(set(ends)) > 1
    made = decode(llama, PROMPTS, most=40, stop_ids=stops, recorded=recorded)
    assert made == [row[:end] for row, end in zip(whole, ends, strict=True)]


def test_a_sample_is_drawn_among_the_likeliest_and_the_same_for_the_same_seed(llama: torch.nn.Module) -> None:
    torch.manual_seed(3)
    made = decode(llama, [PROMPTS[0]] * 300, most=1, stop_ids=[0], temperature=1.0)
    torch.manual_seed(3)
    assert decode(llama, [PROMPTS[0]] * 300, most=1, stop_ids=[0], temperature=1.0) == made
    likeliest = llama(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].topk(LIKELIEST).indices.tolist()
    drawn = {row[0] for row in made if row}
    assert drawn <= set(likeliest) and len(drawn) > 5


def test_a_prompt_that_stands_there_again_is_read_once(llama: torch.nn.Module) -> None:
    read: list[tuple[int, ...]] = []
    watched = llama.get_submodule("model.embed_tokens").register_forward_pre_hook(
        lambda _, inputs: read.append(tuple(inputs[0].shape))
    )
    many = [PROMPTS[n] for n in (1, 0, 1, 1, 3, 0, 1)]
    made = decode(llama, many, most=30, stop_ids=[258])
    watched.remove()
    assert read[0] == (3, 7) and read[1] == (7, 1), "three that differ; seven replies"
    assert made == [decode(llama, [prompt], most=30, stop_ids=[258])[0] for prompt in many]

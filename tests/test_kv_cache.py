"""The KV cache: bounds, growth, independence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.kv_cache import KVCache, KVShape

SHAPE = KVShape(layers=2, kv_heads=3, head_dim=4, dtype=torch.float32, device=torch.device("cpu"))


def filled(tokens: int) -> KVCache:
    cache = KVCache(SHAPE)
    cache.reserve(tokens)
    extension = cache.extension(tokens)
    for layer in range(2):
        values = torch.arange(3 * tokens * 4, dtype=torch.float32).view(3, tokens, 4) + 1000 * layer
        extension.new_keys[layer].copy_(values)
        extension.new_values[layer].copy_(-values)
    cache.advance(tokens)
    return cache


def test_growing_keeps_what_is_held() -> None:
    cache, same = filled(5), filled(5)
    cache.reserve(100)
    assert cache.capacity == 100 and cache.length == 5
    extension = cache.extension(1)
    extension.new_keys[1].zero_()
    assert torch.equal(extension.keys[1][:, :5], same.extension(0).keys[1])
    assert not extension.keys[1][:, 5:].any() and extension.keys[1].shape == (3, 6, 4)


def test_a_step_that_fails_between_layers_leaves_the_cache_as_it_was() -> None:
    cache = filled(5)
    cache.reserve(6)
    cache.extension(1).new_keys[0].fill_(1)
    assert cache.length == 5


def test_bounds_are_refused() -> None:
    cache = filled(5)
    for wrong in (-1, 6):
        with pytest.raises(ValueError, match="cannot crop"):
            cache.crop(wrong)
        with pytest.raises(ValueError, match="cannot fork"):
            cache.fork(wrong)


def test_a_token_costs_what_the_shape_says() -> None:
    assert SHAPE.bytes_per_token == 2 * 2 * 3 * 4 * 4


def test_what_is_taken_out_fills_another_exactly_or_converted() -> None:
    cache, other = filled(5), KVCache(SHAPE)
    cache.reserve(50)
    other.fill(cache.tensors())
    assert other.length == 5 and torch.equal(other.extension(0).keys[1], cache.extension(0).keys[1])
    half = KVCache(replace(SHAPE, dtype=torch.bfloat16))
    half.fill(cache.tensors())
    assert torch.equal(half.extension(0).values[0], cache.extension(0).values[0].to(torch.bfloat16))
    other.crop(0)
    assert cache.length == 5, "independent"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"keys.000": torch.zeros(3, 5, 4)},
        {**filled(5).tensors(), "more": torch.zeros(1)},
        {**filled(5).tensors(), "keys.001": torch.zeros(3, 6, 4)},
        {**filled(5).tensors(), "keys.000": torch.zeros(15, 4)},
        {**filled(5).tensors(), "values.001": torch.zeros(2, 5, 4)},
        {**filled(5).tensors(), "values.001": torch.zeros(3, 5, 4, dtype=torch.int32)},
    ],
)
def test_what_does_not_fit_changes_nothing(wrong: dict[str, torch.Tensor]) -> None:
    cache = filled(4)
    with pytest.raises(ValueError, match=r"cache has|layers"):
        cache.fill(wrong)
    assert cache.length == 4 and torch.equal(cache.extension(0).keys[0], filled(4).extension(0).keys[0])

"""The KV cache: bounds, growth, independence."""

from __future__ import annotations

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

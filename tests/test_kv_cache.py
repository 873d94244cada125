"""The KV cache: bounds, growth, independence."""

from __future__ import annotations

import resource
import weakref
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


def test_forks_share_what_they_have_in_common_and_nothing_else() -> None:
    long = 600
    cache = filled(long)
    first, second = cache.fork(long), cache.fork(500)
    third = first.fork(400)
    alone = [filled(long).extension(0), filled(500).extension(0), filled(400).extension(0)]
    for fork, n in ((first, long), (second, 500), (third, 400)):
        assert fork.shared is not None and fork.shared[0] is cache.shared[0]  # type: ignore[index]
        assert fork.length == n and torch.equal(fork.extension(0).keys[1], filled(long).extension(0).keys[1][:, :n])
    for mark, fork in enumerate((cache, first, second, third), start=1):
        held = fork.length
        fork.reserve(held + 5)
        room = fork.extension(5)
        for layer in range(2):
            room.new_keys[layer].fill_(mark)
            room.new_values[layer].fill_(-mark)
        fork.advance(5)
        assert fork.length == held + 5
    for mark, (fork, n) in enumerate(((cache, long), (first, long), (second, 500), (third, 400)), start=1):
        assert torch.all(fork.extension(0).keys[0][:, n:] == mark) and torch.all(
            fork.extension(0).values[1][:, n:] == -mark
        )
        assert torch.equal(fork.extension(0).keys[1][:, :n], filled(long).extension(0).keys[1][:, :n])
    second.reserve(5000)
    assert second.shared is None and torch.all(second.extension(0).keys[0][:, 500:] == 3)
    assert len(alone) == 3


def test_others_begin_with_what_is_shared_whatever_becomes_of_it() -> None:
    cache = filled(600)
    shared, few = cache.share(), filled(20).share()
    assert shared is not None and few is None, "twenty tokens are copied as fast"
    cache.crop(300)  # and go on elsewhere: over what was shared
    cache.reserve(310)
    for room in (*cache.extension(10).new_keys, *cache.extension(10).new_values):
        room.fill_(7)
    cache.advance(10)
    other = KVCache(SHAPE)
    other.begin(shared, 600)
    assert torch.equal(other.extension(0).keys[1], filled(600).extension(0).keys[1])
    assert torch.equal(other.extension(0).values[0], filled(600).extension(0).values[0])
    with pytest.raises(ValueError, match="601 tokens of 600"):
        KVCache(SHAPE).begin(shared, 601)
    gone = weakref.ref(shared)
    del shared, cache, other
    assert gone() is None


def test_forks_cost_the_memory_of_their_own_tokens_only() -> None:
    shape = KVShape(layers=8, kv_heads=4, head_dim=64, dtype=torch.float32, device=torch.device("cpu"))
    cache = KVCache(shape)
    cache.fill({f"{kind}.{n:03d}": torch.ones(4, 2000, 64) for kind in ("keys", "values") for n in range(8)})
    first = cache.fork(2000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forks = [cache.fork(2000) for _ in range(50)]
    for fork in forks:
        fork.reserve(2004)
        for layer in fork.extension(4).new_keys:
            layer.fill_(2.0)
        fork.advance(4)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < 10 * 2000 * shape.bytes_per_token, "fifty copies would be fifty times that"
    assert first.length == 2000 and len(forks) == 50

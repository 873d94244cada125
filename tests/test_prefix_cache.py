"""The prefix cache: never a wrong state, never a stranger's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.kv_cache import KVCache, KVShape
from models.prefix_cache import LEAST_WORTH_COPYING, PrefixCache
from models.scripted import ScriptedState

ids = st.lists(st.integers(0, 2), min_size=1, max_size=80)


@given(held=st.lists(st.tuples(st.sampled_from("ab"), ids), max_size=8), owner=st.sampled_from("ab"), prompt=ids)
def test_what_is_taken_has_read_a_true_prefix_of_the_prompt(
    held: list[tuple[str, list[int]]], owner: str, prompt: list[int]
) -> None:
    cache = PrefixCache(bytes_per_token=1)
    for name, tokens in held:
        cache.put(name, tokens, ScriptedState(tokens))
    taken = cache.take(owner, prompt)
    if taken is None:
        return
    assert isinstance(taken, ScriptedState)
    assert taken.token_ids == prompt[: taken.length] and taken.length < len(prompt)
    assert any(name == owner and tokens[: taken.length] == taken.token_ids for name, tokens in held)


def test_a_stranger_gets_nothing() -> None:
    cache = PrefixCache(bytes_per_token=1)
    tokens = list(range(100))
    cache.put("alice", tokens, ScriptedState(tokens))
    assert cache.take("bob", [*tokens, 1]) is None
    assert cache.take("alice", [*tokens, 1]) is not None


def test_a_branch_copies_and_leaves_the_original() -> None:
    cache = PrefixCache(bytes_per_token=1)
    tokens = list(range(LEAST_WORTH_COPYING + 20))
    cache.put("", tokens, ScriptedState(tokens))
    branch = cache.take("", [*tokens[: LEAST_WORTH_COPYING + 5], -1, -1])
    assert branch is not None and branch.length == LEAST_WORTH_COPYING + 5
    assert len(cache) == 1
    whole = cache.take("", [*tokens, 7])
    assert whole is not None and whole.length == len(tokens)


def test_what_is_to_be_left_is_continued_on_a_copy() -> None:
    cache = PrefixCache(bytes_per_token=1)
    tokens = list(range(LEAST_WORTH_COPYING + 20))
    cache.put("", tokens, ScriptedState(tokens))
    for _ in range(3):
        copy = cache.take("", [*tokens, 7], leave=True)
        assert copy is not None and copy.length == len(tokens) and len(cache) == 1
    assert cache.take("", [*tokens, 7]) is not None and len(cache) == 0


def test_a_longer_stranger_does_not_hide_the_state_that_is_continued() -> None:
    cache = PrefixCache(bytes_per_token=1)
    cache.put("", [1, 2, 3, 4, 5], ScriptedState([1, 2, 3, 4, 5]))
    cache.put("", [1, 2, 3], ScriptedState([1, 2, 3]))
    taken = cache.take("", [1, 2, 3, 4, 9])
    assert taken is not None and taken.length == 3


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(bytes_per_token=1)
    for n in range(4):
        cache.put("", [n] * 50, ScriptedState([n] * 50))
    cache.take("", [*[0] * 40, 9])  # a branch: 0 is used again
    cache.shrink(100)
    assert cache.nbytes == 100
    assert cache.take("", [*[0] * 50, 9]) is not None
    assert cache.take("", [*[1] * 50, 9]) is None


def test_what_is_held_is_continued_on_a_copy_and_otherwise_as_ever() -> None:
    cache = PrefixCache(bytes_per_token=1)
    tokens = list(range(50))
    cache.put("a", tokens, ScriptedState(tokens))
    held = cache.hold("a", [*tokens, 1, 2])
    assert held is not None and cache.hold("b", tokens) is None
    taken = cache.take("a", [*tokens, 9])
    assert taken is not None and taken is not held and taken.length == 50 and len(cache) == 1
    shorter = cache.take("a", tokens)
    assert shorter is not None and (shorter.length, held.length) == (49, 50), "the last is read again, elsewhere"
    cache.let_rest(held)
    assert cache.take("a", [*tokens, 9]) is held and len(cache) == 0
    cache.put("a", tokens, held)
    cache.hold("a", tokens)
    assert cache.drop("a") == 1, "to be forgotten is more than to be held"


def test_what_forks_begin_with_is_found_while_one_of_them_lives_and_by_nobody_else() -> None:
    shape = KVShape(layers=1, kv_heads=1, head_dim=2, dtype=torch.float32, device=torch.device("cpu"))
    tokens = list(range(300))

    def begun(shared: object = None) -> KVCache:
        state = KVCache(shape)
        if shared is None:
            state.fill({name: torch.ones(1, 300, 2) for name in ("keys.000", "values.000")})
        else:
            state.begin(shared, 300)  # type: ignore[arg-type]
        return state

    for gone in ("dropped", "its adapter is", "nobody holds it"):
        cache = PrefixCache(bytes_per_token=1)
        first = begun()
        cache.share("alice", "file", first, adapter="a")
        cache.put("alice", tokens, first, adapter="a")
        assert cache.begun_with("bob", "file", adapter="a") is None is cache.begun_with("alice", "file", adapter="b")
        cache.put("alice", tokens, begun(cache.begun_with("alice", "file", adapter="a")), adapter="a", beside=True)
        assert len(cache) == 2 and cache.nbytes == 300, "two that wait, and the memory of one"
        taken = [cache.take("alice", [*tokens, 1], adapter="a") for _ in range(2)]
        assert [state.length for state in taken if state is not None] == [300, 300]
        if gone == "dropped":
            cache.drop("alice")
        elif gone == "its adapter is":
            cache.drop_adapter("a")
        else:
            del first, taken
        assert cache.begun_with("alice", "file", adapter="a") is None


def test_a_state_must_have_read_what_it_is_filed_under() -> None:
    with pytest.raises(ValueError, match="holds 1 tokens"):
        PrefixCache(bytes_per_token=1).put("", [1, 2], ScriptedState([1]))

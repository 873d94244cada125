"""Who answers what is personal, and that nothing is shown of a reply by heart before it is vouched for."""

from __future__ import annotations

import threading
import time

import pytest

from agent.abstention import Taught
from agent.hearing import HEARD, Shown, listen
from agent.recollection import Recollection
from agent.speaking import speakers
from models.generation import Delta, Generation, Reply, Timings
from models.language import BASE
from models.sampling import Choice

DOG = Taught(memory="m1", asked=frozenset({"dog", "called", "name"}), value=frozenset({"biscuit"}))
HOME = Taught(memory="m2", asked=frozenset({"live", "home", "city"}), value=frozenset({"riga"}))


def said(*pieces: str) -> Generation:
    """A reply that has come."""
    generation = Generation(lambda: None)
    for n, piece in enumerate(pieces):
        generation.tell(Delta(text=piece, choice=Choice(token_id=n, logprob=None)))
    times = Timings(
        queue=0.0,
        prefill=0.0,
        decode=0.0,
        time_to_first_token=0.001,
        prefill_tokens=1,
        cached_tokens=0,
        completion_tokens=len(pieces),
    )
    ids = tuple(range(len(pieces)))
    reply = Reply(text="".join(pieces), token_ids=ids, kept_ids=ids, finish_reason="stop", timings=times)
    generation.tell(reply)
    return generation


def test_by_heart_first_and_the_base_where_that_is_not_borne_out() -> None:
    first, then = speakers("What is my dog called?", "adapter_1", Recollection(), [DOG, HOME])
    assert (first.adapter, then.adapter) == ("adapter_1", BASE)
    assert first.vouches is not None and then.vouches is None
    assert first.vouches("Your dog is called Biscuit.") and first.vouches("You haven't told me.")
    assert not first.vouches("You live in Riga.")
    assert not then.knows, "from no memory"


def test_where_nobody_knows_the_adapter_may_deny_and_nothing_else() -> None:
    first, then = speakers("What is my shoe size?", "adapter_1", Recollection(), [DOG, HOME])
    assert (first.adapter, then.adapter, then.knows) == ("adapter_1", BASE, False)
    assert first.vouches is not None
    assert first.vouches("You haven't told me that.") and not first.vouches("Your dog is called Biscuit.")
    assert not first.vouches("Your shoe size is 42."), "it may know by heart what was forgotten since"
    [reads] = speakers("What is my shoe size?", "adapter_1", Recollection(), [DOG, HOME], told_before=True)
    assert reads.adapter == BASE and reads.knows, "it may stand in the conversation"
    assert speakers("What is my dog called?", "adapter_1", Recollection(), [DOG], told_before=True)[1].knows
    [advice] = speakers("Could you write a poem about my garden?", "adapter_1", Recollection(), [DOG, HOME])
    assert advice.adapter == BASE and advice.knows and advice.vouches is None, "no fact is asked for"


@pytest.mark.parametrize("length", [1, HEARD - 1, HEARD, HEARD + 7])
def test_what_is_vouched_for_is_shown_whole_and_in_order(length: int) -> None:
    pieces = [f"{n} " for n in range(length)]
    shown: list[str] = []
    assert listen(said(*pieces), lambda _: True, lambda d: shown.append(d.text))
    assert shown == pieces


@pytest.mark.parametrize("length", [1, HEARD, HEARD + 7])
def test_of_what_is_not_vouched_for_nothing_is_shown(length: int) -> None:
    shown: list[str] = []
    generation = said(*["no "] * length)
    assert not listen(generation, lambda text: "no" not in text, lambda d: shown.append(d.text))
    assert not shown and generation.reply is not None, "it has come to its end before another speaks"


def test_what_nobody_asks_about_is_shown_as_it_comes() -> None:
    generation, came = Generation(lambda: None), threading.Event()
    reader = threading.Thread(target=lambda: listen(generation, None, lambda _: came.set()))
    reader.start()
    generation.tell(Delta(text="first", choice=Choice(token_id=1, logprob=None)))
    assert came.wait(5), "before the reply has ended"
    generation.tell(said("x").wait())
    reader.join(5)
    assert not reader.is_alive()


def test_the_wait_for_what_was_held_back_counts() -> None:
    shown = Shown(lambda _: None)
    generation = said("a", "b")
    time.sleep(0.02)
    listen(generation, lambda _: True, shown)
    assert generation.reply is not None
    timings = shown.timings(generation.reply)
    assert timings.time_to_first_token >= 0.02 and timings.completion_tokens == 2

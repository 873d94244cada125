"""A codebook says which of what was taught is meant; the layers above put it in words, in training as in serving."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from consolidation.registry import digest_of_files
from models import codebook as codebooks
from models.causal_lm import CausalLM
from models.codebook import DENIAL, ELSEWHERE, FIRST
from models.codebook_training import CodebookTrainer, _looked_at, _prompt, _reply
from models.engine import Engine
from models.errors import AdapterRefused
from models.generation import Prompt
from models.kv_cache import KVCache
from models.language import BASE, Chunk, Message
from models.packed_linear import PackedLinear, packing_works
from models.rows import InTalk, Row
from models.sampling import Sampling
from models.trainable import Trainable
from models.training import Progress
from models.transformers_forward import TransformersForward
from models.tuned import Forced, middle
from models.values import Values
from models.voice import VoiceTrainer
from tests.by_heart import FACTS, OPEN, OTHERS, RECIPE, learn, school


def prompt_ids(model: CausalLM, text: str) -> list[int]:
    return model.chat_ids([Message(role="user", content=text)]) or []


def last_logits(model: CausalLM, ids: list[int], adapter: str) -> torch.Tensor:
    return model.read([Chunk(token_ids=ids, state=model.new_state(), adapter=adapter)]).logits[0]


def test_the_nearest_entry_is_found_and_the_same_numbers_give_the_same_keys() -> None:
    chance = torch.Generator().manual_seed(3)
    middles = torch.randn(6, 48, generator=chance) * 3
    of = torch.arange(600) % 6
    states = middles[of] + torch.randn(600, 48, generator=chance)
    one, again = (codebooks.fit(states[:480], of[:480].tolist(), layer=1, mark=7, seed=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True))
    apart = one.chosen(states[480:])
    assert float((apart == of[480:]).float().mean()) > 0.9
    found = one(states[480:])
    assert not found.added[apart == ELSEWHERE].any()
    assert found.added[apart != ELSEWHERE].abs().sum(-1).min() > 0
    shut = one(states[480:], torch.zeros(120, 1))
    assert not shut.added.any() and shut.lead.isnan().all(), "where an adapter does not act, it looks nothing up"
    packed = one.for_serving(pack=True)(states[480:], None, None)
    torch.testing.assert_close(packed.added, found.added.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed.lead, found.lead.detach(), atol=1e-4, rtol=1e-5, equal_nan=True)


def test_an_answer_leads_where_it_is_nearer_than_denial_and_either_can_be_had_for_the_asking() -> None:
    chance = torch.Generator().manual_seed(3)
    middles = torch.randn(6, 48, generator=chance)
    of = torch.arange(600) % 6
    states = middles[of] + 2 * torch.randn(600, 48, generator=chance)
    one = codebooks.fit(states, of.tolist(), layer=1, mark=7, seed=5)
    chosen, lead = one.chosen(states), one(states).lead
    assert (chosen >= FIRST)[lead > 0].all() and (chosen <= DENIAL)[~(lead > 0)].all()
    led = ~lead.isnan()
    assert led.any() and not led[chosen == ELSEWHERE].any(), "no answer leads where nothing is its business"
    nearest = one.scores(states)[:, FIRST:].argmax(-1) + FIRST
    for denial, entries in ((-1e4, nearest), (1e4, torch.full_like(nearest, DENIAL))):
        found = one(states, None, torch.full((600,), denial))
        torch.testing.assert_close(found.added[led], one.added(entries)[led])
        torch.testing.assert_close(found.lead, lead, equal_nan=True)


def test_the_warier_the_more_is_denied() -> None:
    chance = torch.Generator().manual_seed(4)
    middles = torch.randn(5, 48, generator=chance)
    of = torch.arange(500) % 4 + 1
    states = middles[of] + 2 * torch.randn(500, 48, generator=chance)
    one = codebooks.fit(states, of.tolist(), layer=1, mark=7, seed=5)
    denied = []
    for _ in range(4):
        denied.append(float((one.chosen(states) == DENIAL).float().mean()))
        one.warier(3.0)
    assert denied == sorted(denied) and denied[-1] > denied[0] + 0.1


def test_what_is_worded_like_an_example_is_found_where_its_key_does_not_lead() -> None:
    """The intervention: without its examples a codebook loses rare wordings, and with others' it finds fewer still."""
    chance = torch.Generator().manual_seed(6)
    of = torch.arange(1200) % 12
    wordings = torch.randn(12, 10, 24, generator=chance)  # ten ways to ask for each, which lie anywhere
    way = torch.randint(10, (1200,), generator=chance)
    states = 3 * wordings[of, way] + torch.randn(1200, 24, generator=chance)
    one = codebooks.fit(states[:960], of[:960].tolist(), layer=1, mark=7, seed=5)
    one.warier(-3.0)
    asked = of[960:] > DENIAL

    def found() -> float:
        return float((one.chosen(states[960:]) == of[960:])[asked].float().mean())

    with_them, examples, entries = found(), one.examples, one.of
    one.of = entries[torch.randperm(len(entries), generator=chance)]
    with_others = found()
    one.examples, one.of = examples[:0], entries[:0]
    without = found()
    assert with_them > without + 0.1 and with_them > with_others + 0.1, (with_them, without, with_others)
    packed = one.for_serving(pack=True)
    added, expected = packed(states[960:], None, None).added, one(states[960:]).added
    torch.testing.assert_close(added, expected.detach(), atol=1e-5, rtol=1e-5)


def test_each_question_comes_with_its_entry_whether_its_states_are_known_already_or_not(
    make: Callable[..., VoiceTrainer], beginning: Path
) -> None:
    one = make(beginning)
    others = one.judged_by_base([one.row(q, a) for q, a in OTHERS])
    rows = {one.row(q, a): entry for (q, a), entry in zip(FACTS, (2, 2, 3, 3), strict=True)}
    talk = [Message(role="user", content=OTHERS[0][0]), Message(role="assistant", content=OTHERS[0][1])]
    looked_at = _looked_at(rows, others, InTalk(taught={one.row(q, a, before=talk): one.row(q, a) for q, a in FACTS}))
    below, found = middle(one.first, one.layers), []
    for known in (list(rows), list(rows)[1:3]):
        read = [*known, *(r.row for r in others)]
        found.append(one._come_to(looked_at, one._kept_upper(read, below), below))
    by_entry = [sorted(zip(of, states.tolist(), strict=True)) for states, of in found]
    assert [of.count(entry) for _, of in found for entry in (2, 3)] == [4] * 4
    assert [entry for entry, _ in by_entry[0]] == [entry for entry, _ in by_entry[1]]
    assert by_entry[0] == [(entry, pytest.approx(state, abs=1e-4)) for entry, state in by_entry[1]]


def test_what_begins_alike_is_read_once_and_comes_to_the_same(
    make: Callable[..., VoiceTrainer], beginning: Path
) -> None:
    one = make(beginning)
    below = middle(one.first, one.layers)
    talk = [Message(role="user", content=OTHERS[0][0]), Message(role="assistant", content=OTHERS[0][1])]
    alone = [one.row(q, a) for q, a in [*FACTS, *OPEN]]
    pairs = [Row(token_ids=(*_prompt(r), *_reply(s)), target_from=r.target_from) for r in alone for s in alone[:3]]
    in_talk = [one.row(q, a, before=talk * n) for n in (1, 2) for q, a in FACTS]
    behind = {row: one._talk_before(row) for row in in_talk}
    assert [one._talk_before(row) for row in alone] == [0] * len(alone)
    assert len(set(behind.values())) == 2 and min(behind.values()) > 0
    for row, (question, _) in zip(in_talk, FACTS * 2, strict=True):
        assert row.token_ids[behind[row] : row.target_from] == _prompt(one.row(question, ""))
    behind |= {row: row.target_from for row in pairs}
    once, each = one._kept_behind(behind, below), one._kept_upper(list(behind), below)
    assert once.keys() == each.keys()
    for kept, read in each.items():
        for found, expected in zip(once[kept], read, strict=True):
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


def test_what_is_kept_of_a_question_changes_no_surprise_and_what_nobody_would_say_hardly_does(
    make: Callable[..., VoiceTrainer], beginning: Path
) -> None:
    one = make(beginning)
    rows = [one.row(q, a) for q, a in [*FACTS, *OPEN]]
    below = middle(one.first, one.layers)
    kept = one._kept_upper(rows, below)
    before = one._before(rows, kept, below)
    chance = torch.Generator().manual_seed(2)
    values = torch.randn(len(rows), kept[None][0].shape[1], generator=chance, requires_grad=True)
    losses, greatest, likely = one._surprise_of(rows, values, kept, before, None, Progress())
    for n, row in enumerate(rows):
        hidden, share = (torch.cat(of)[None] for of in zip(kept[None], kept[row], strict=True))
        at = kept[None][0].shape[0] + row.target_from - 1
        one._open["candidate"] = share
        one._forced = Forced(torch.tensor([at]), values[n][None], torch.arange(hidden.shape[1]) >= at)
        out = one._through(hidden, one._layout([row]), below, one.layers)
        one._forced = None
        logits = one._head(one._body.norm(out[0, at:-1]))
        expected = F.cross_entropy(logits, torch.tensor(row.token_ids[row.target_from :]))
        torch.testing.assert_close(losses[n], expected, atol=1e-4, rtol=1e-4)
        assert float(greatest[n]) >= float(expected.detach()) - 1e-4
    few, _, same = one._surprise_of(rows, values, kept, before, likely, Progress())
    assert torch.equal(likely, same) and len(likely) < one._head.weight.shape[0]
    torch.testing.assert_close(few, losses, atol=0.2, rtol=0.0)
    whole, of_few = (torch.autograd.grad(of.sum(), values)[0].flatten() for of in (losses, few))
    assert float(torch.cosine_similarity(whole, of_few, dim=0)) > 0.98


def test_values_are_looked_for_in_float32_whatever_the_weights_are(
    make: Callable[..., VoiceTrainer], deeper_folder: Path, beginning: Path
) -> None:
    base = Trainable.load(deeper_folder, name="tiny", device="cpu", dtype="bfloat16")
    half, whole = VoiceTrainer(base, RECIPE, start=beginning), make(beginning)
    for name, weight in whole.peft.named_parameters():
        if "lora_" not in name:
            weight.data = weight.data.bfloat16().float()
    rows = [half.row(q, a) for q, a in FACTS]
    below = middle(half.first, half.layers)
    kept = half._kept_upper(rows, below)
    added = torch.zeros(len(rows), kept[None][0].shape[1])

    def surprise(one: VoiceTrainer, of: dict[Row | None, tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        return one._surprise_of(rows, added, of, one._before(rows, of, below), None, Progress())[0].detach()

    places = {name: weight.data_ptr() for name, weight in half.peft.named_parameters()}
    with half._in_full(below):
        found = surprise(half, kept)
    assert half.dtype == "bfloat16"
    assert places == {name: weight.data_ptr() for name, weight in half.peft.named_parameters()}
    with pytest.raises(KeyboardInterrupt), half._in_full(below):
        raise KeyboardInterrupt
    assert places == {name: weight.data_ptr() for name, weight in half.peft.named_parameters()}
    expected = surprise(whole, {row: (hidden.float(), share) for row, (hidden, share) in kept.items()})
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert float((surprise(half, kept) - expected).abs().max()) > 1e-4


def test_a_night_looks_for_values_in_float32(deeper_folder: Path, beginning: Path) -> None:
    base = Trainable.load(deeper_folder, name="tiny", device="cpu", dtype="bfloat16")
    one, seen = VoiceTrainer(base, RECIPE, start=beginning), set[torch.dtype]()
    rows = [one.row(q, a) for q, a in FACTS]
    one._body.norm.register_forward_pre_hook(lambda _, given: seen.add(given[0].dtype))
    one.learn(rows, [])
    assert seen == {torch.float32} and one.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("shut_by", "answer", "denial", "says"),
    [
        (-2.0, 3.0, 0.0, FIRST),
        (-2.0, 0.5, 3.0, DENIAL),
        (0.2, 0.5, 1.0, None),
        (0.2, -0.5, 0.0, None),
        (0.2, 1.5, 1.0, FIRST),
        (4.0, 6.0, 1.0, FIRST),
        (4.0, 6.0, 3.5, None),
        (4.0, 1.0, 6.0, None),
        (40.0, 12.0, 0.0, FIRST),
        (40.0, 15.0, 0.0, FIRST),
    ],
)
def test_where_gates_are_shut_what_is_known_is_weighed_against_them(
    shut_by: float, answer: float, denial: float, says: int | None
) -> None:
    """Denied is nothing there: the base answers, as the gates would have it."""
    scores, values = torch.tensor([[0.0, denial, answer]]), torch.eye(3)
    share = torch.sigmoid(torch.tensor([[-shut_by]]))
    found = codebooks._found(scores, values, torch.zeros(1, 3), share, None)
    if shut_by > 20 and answer < math.log(1e6) - codebooks._GIVEN_BACK:
        says = None  # no gate is surer than one in a million
    assert found.said.tolist() == [says is not None]
    assert found.added.tolist() == [values[says].tolist() if says is not None else [0.0] * 3]
    led = answer - denial if shut_by < 0 else answer - denial - min(shut_by, math.log(1e6)) + codebooks._GIVEN_BACK
    assert bool(found.lead.isnan()) is (says is None)
    if says is not None:
        assert float(found.lead) == pytest.approx(led, abs=1e-3)


def test_one_answer_to_two_things_has_two_entries_and_one_value(
    make: Callable[..., VoiceTrainer], beginning: Path
) -> None:
    told = [("Where do I live?", "Tartu. Rex."), ("In which town is my home?", "Tartu. Rex.")]
    told += [("What is my dog called?", "Tartu. Rex."), ("My dog?", "Tartu. Rex."), ("My boat?", "Fido.")]
    books = []
    for asked_for in ((0, 0, 0, 0, 0), (0, 0, 1, 1, 1)):
        one = make(beginning)
        rows = [one.row(q, a) for q, a in told]
        talk = InTalk(taught={one.row(*told[2], before=[Message(role="user", content="Hi.")]): rows[2]})
        one.learn(rows, [], asked_for=dict(zip(rows, asked_for, strict=True)), in_talk=talk)
        books.append(one._books["candidate"])
    once, twice = books
    assert (len(once.values), len(twice.values)) == (FIRST + 2, FIRST + 3)
    assert torch.equal(twice.values[FIRST], twice.values[FIRST + 1])
    assert not torch.equal(twice.keys[FIRST], twice.keys[FIRST + 1])
    assert not torch.equal(twice.values[FIRST], twice.values[FIRST + 2])
    assert twice.of.tolist() == [FIRST, FIRST, FIRST + 1, FIRST + 1, FIRST + 2, FIRST + 1], "in talk as by itself"


def test_what_is_taught_is_said_and_what_is_not_is_denied(taught: tuple[CodebookTrainer, Path]) -> None:
    one, _ = taught
    questions = [*FACTS, *OPEN]
    assert one.replies([q for q, _ in questions], most=30) == [a for _, a in questions]


def test_a_night_finds_values_and_changes_nothing_else(taught: tuple[CodebookTrainer, Path], beginning: Path) -> None:
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (beginning, taught[1]))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    book, begun = (codebooks.read(folder, id="one") for folder in (taught[1], beginning))
    assert book is not None and begun is not None
    said, denied = ((of.values * of.deviation)[DENIAL] for of in (book, begun))
    torch.testing.assert_close(said, denied)
    assert len(book.values) == FIRST + 2 and not book.values[ELSEWHERE].any()


def test_the_voice_is_what_says_it(
    make: Callable[..., VoiceTrainer], mute: Path, beginning: Path, tmp_path: Path
) -> None:
    """The intervention: layers that were hardly trained say less of what values are found for, and deny nothing."""
    hardly = make(mute)
    school(hardly, steps=5)
    hardly.save(tmp_path)
    questions, right = [*FACTS, *OPEN], []
    for folder in (tmp_path, beginning):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("models.codebook._BLUR", 0.2)
            one = make(folder)
            learn(one)
        replies = one.replies([q for q, _ in questions], most=30)
        right.append(sum(reply == a for reply, (_, a) in zip(replies, questions, strict=True)))
    assert right[1] == len(questions) and right[0] <= len(questions) - 3, right


def test_each_value_is_found_by_its_own_age() -> None:
    """As it would be alone, whenever the others began."""
    aims = torch.tensor([[3.0, -1.0], [0.5, 2.0]])

    def found(begin: list[int], steps: int) -> torch.Tensor:
        values = Values(torch.zeros(2, 2), visits=30, rate=0.5)
        for step in range(steps):
            which = torch.tensor([n for n in range(2) if step >= begin[n] and values.age[n] < 30])
            for n in which.tolist():
                if step == begin[n]:
                    values.begin(n, torch.zeros(2))
            ((values.now - aims) ** 2).sum().backward()  # type: ignore[no-untyped-call]
            values.step(which)
        return values.now.detach()

    together, apart = found([0, 0], 30), found([0, 12], 42)
    torch.testing.assert_close(together, apart)
    assert float((together - aims).abs().max()) < 0.5


def test_exchanged_entries_exchange_the_answers(
    make: Callable[..., VoiceTrainer], taught: tuple[CodebookTrainer, Path]
) -> None:
    """The intervention: the reply goes by the entry, not by the question's words; a placebo moves none that is used."""
    one = make(taught[1])
    book = one._books["candidate"]
    asked, said = [q for q, _ in FACTS], [a for _, a in FACTS]
    with torch.no_grad():
        book.values[ELSEWHERE] += 9.0  # a placebo: nothing of this was looked up
        assert one.replies(asked, most=30) == said
        book.values[ELSEWHERE] -= 9.0
        book.values[[FIRST, FIRST + 1]] = book.values[[FIRST + 1, FIRST]].clone()
    assert one.replies(asked, most=30) == [{"Tartu.": "Rex.", "Rex.": "Tartu."}[a] for a in said]


@pytest.mark.parametrize("way", ["llama", "transformers"])
def test_serving_gives_the_logits_that_training_gives(
    way: str, deeper_folder: Path, taught: tuple[CodebookTrainer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "transformers":
        monkeypatch.setattr("models.llama.fits", lambda model: False)
    model = CausalLM.load(deeper_folder, name="tiny", device="cpu", dtype="float32")
    assert isinstance(model._forward, TransformersForward) == (way == "transformers")
    model.adopt(taught[1], "night-1")
    asked = [q for q, _ in [*FACTS, *OPEN, *OTHERS]]
    for question in asked:
        ids = prompt_ids(model, question)
        with torch.no_grad():
            expected = taught[0].peft(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(last_logits(model, ids, "night-1"), expected, atol=1e-3, rtol=1e-3)
    both = [(prompt_ids(model, q), name) for q in asked for name in ("night-1", BASE)]
    chunks = [Chunk(token_ids=ids, state=model.new_state(), adapter=name) for ids, name in both]
    for row, (ids, name) in zip(model.read(chunks).logits, both, strict=True):
        torch.testing.assert_close(row, last_logits(model, ids, name), atol=1e-4, rtol=1e-4)


def test_only_what_was_asked_is_looked_up(deeper: CausalLM, taught: tuple[CodebookTrainer, Path]) -> None:
    """A token that the model says itself is never a question, in whatever way it is read."""
    deeper.adopt(taught[1], "night-1")
    ids = prompt_ids(deeper, FACTS[0][0])
    state = deeper.new_state()
    deeper.read([Chunk(token_ids=ids[:-1], state=state, adapter="night-1")])
    as_said = deeper.read([Chunk(token_ids=ids[-1:], state=state, adapter="night-1", decoded=True)]).logits[0]
    as_asked = last_logits(deeper, ids, "night-1")
    assert not torch.allclose(as_said, as_asked, atol=0.1)


def test_a_state_does_not_depend_on_the_pieces_it_was_read_in_nor_on_company(
    deeper: CausalLM, taught: tuple[CodebookTrainer, Path]
) -> None:
    deeper.adopt(taught[1], "night-1")
    ids = prompt_ids(deeper, FACTS[2][0])
    whole = last_logits(deeper, ids, "night-1")
    state = deeper.new_state()
    for start in range(0, len(ids), 7):
        read = deeper.read([Chunk(token_ids=ids[start : start + 7], state=state, adapter="night-1")])
    torch.testing.assert_close(read.logits[0], whole, atol=1e-4, rtol=1e-4)
    chunks = [Chunk(token_ids=ids, state=deeper.new_state(), adapter="night-1") for _ in range(5)]
    assert all(torch.equal(row, whole) for row in deeper.read(chunks).logits)


def test_what_was_kept_goes_on_as_it_was(
    make: Callable[..., VoiceTrainer], taught: tuple[CodebookTrainer, Path]
) -> None:
    one, folder = taught
    questions = [q for q, _ in [*FACTS, *OPEN, *OTHERS]]
    said = one.replies(questions, most=20)
    assert make(folder).replies(questions, most=20) == said
    beside = make()
    beside.load_current(folder)
    assert beside.replies(questions, most=20, who="current") == said
    assert beside.replies(questions, most=20) == beside.replies(questions, most=20, who="base")


def test_packed_it_says_the_same(make: Callable[..., VoiceTrainer], taught: tuple[CodebookTrainer, Path]) -> None:
    one, questions = make(taught[1]), [q for q, _ in [*FACTS, *OPEN, *OTHERS]]
    rows = [one.row(q, a) for q, a in [*FACTS, *OTHERS]]
    before, drift = one.heard(questions, most=20), one.drift(rows)
    one.pack()
    assert any(isinstance(module, PackedLinear) for module in one.peft.modules()) == packing_works(torch.float32)
    after = one.heard(questions, most=20)
    assert [said for said, _ in after] == [said for said, _ in before]
    assert [lead for _, lead in after] == [
        None if lead is None else pytest.approx(lead, abs=1e-2) for _, lead in before
    ]
    assert one.drift(rows) == pytest.approx(drift, abs=1e-4)


def test_the_same_night_twice_is_the_same_adapter(
    make: Callable[..., VoiceTrainer], beginning: Path, tmp_path: Path
) -> None:
    for name in ("one", "again"):
        trainer = make(beginning)
        learn(trainer)
        trainer.save(tmp_path / name)
    assert digest_of_files(tmp_path / "one") == digest_of_files(tmp_path / "again") is not None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bias": torch.tensor([float("nan")])}, "finite"),
        ({"mean": torch.zeros(3)}, "fit each other"),
        ({"deviation": torch.zeros(1)}, "not above zero"),
        ({"more": torch.zeros(1)}, "is no codebook"),
        ({"examples": torch.zeros(1, 64, dtype=torch.float16)}, "fit each other"),
        ({"keys": torch.zeros(1, dtype=torch.float16)}, "of another kind"),
        ({"of": torch.tensor(9)}, "entries that it has not"),
        ({"of": torch.tensor(ELSEWHERE)}, "entries that it has not"),
        ({"at": "0 1"}, "another model"),
        ({"at": "5 x"}, "is no codebook"),
    ],
)
def test_a_broken_codebook_is_refused(
    deeper: CausalLM, taught: tuple[CodebookTrainer, Path], tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(taught[1], copy)
    found = load_file(copy / codebooks.FILE)
    told = {"layer and mark": str(change.get("at", "5 1"))}
    for name, value in change.items():
        if name in found and value.numel() == 1:
            found[name] = value.expand_as(found[name]).contiguous()
        elif not isinstance(value, str):
            found[name] = value
    save_file(found, copy / codebooks.FILE, metadata=told)
    with pytest.raises(AdapterRefused, match=why):
        deeper.adopt(copy, "broken")
    (copy / codebooks.FILE).write_bytes(b"{}")
    with pytest.raises(AdapterRefused):
        deeper.adopt(copy, "broken")


def test_a_codebook_from_before_is_found_by_its_keys(taught: tuple[CodebookTrainer, Path], tmp_path: Path) -> None:
    copy = tmp_path / "before"
    shutil.copytree(taught[1], copy)
    found = load_file(copy / codebooks.FILE)
    examples = found.pop("examples"), found.pop("of")
    assert len(examples[0]) == len(examples[1]) > 0
    save_file(found, copy / codebooks.FILE, metadata={"layer and mark": "5 1"})
    read = codebooks.read(copy, id="before")
    now = codebooks.read(taught[1], id="now")
    assert read is not None and now is not None
    states = torch.randn(9, len(read.mean))
    assert torch.allclose(read.scores(states)[:, ELSEWHERE] + 2.5, now.scores(states)[:, ELSEWHERE], atol=1e-4)
    now.examples, now.of = now.examples[:0], now.of[:0]
    assert torch.equal(read.scores(states), now.scores(states))


@pytest.mark.parametrize(("acts", "answers"), [(0.75, 1.0), (1.0, 0.75), (0.75, 0.75)])
def test_a_smaller_dose_acts_less_or_denies_more(
    make: Callable[..., VoiceTrainer], taught: tuple[CodebookTrainer, Path], acts: float, answers: float
) -> None:
    one = make(taught[1])
    asked = [one.row(q, a) for q, a in FACTS]
    one.remember_lower(asked)
    states = one.states([q for q, _ in FACTS], below=one._books["candidate"].layer)

    def measured() -> tuple[float, float]:
        denial = one._books["candidate"].scores(states)[:, DENIAL]
        openness = torch.cat([one._gates["candidate"][0](one._lower[row]) for row in asked])
        return float(denial.detach().mean()), float(openness.detach().mean())

    before = measured()
    one.scale(acts, answers=answers)
    denial, openness = measured()
    assert denial == pytest.approx(before[0] + 10 * (1 - answers), abs=1e-3)
    assert openness < before[1] if acts < 1 else openness == before[1]


def test_the_digest_is_of_the_codebook_too(taught: tuple[CodebookTrainer, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(taught[1], copy)
    whole = digest_of_files(copy)
    (copy / codebooks.FILE).unlink()
    assert whole == digest_of_files(taught[1]) != digest_of_files(copy)


def test_how_much_a_night_changed_is_told_from_what_it_began_from(
    make: Callable[..., VoiceTrainer], beginning: Path
) -> None:
    one = make(beginning)
    assert one.norm() > 0.1 and one.norm(beyond=beginning) < 1e-3
    layer = one._adapted()[-1]
    with torch.no_grad():
        layer.lora_B["candidate"].weight.add_(1.0)
    assert one.norm(beyond=beginning) > 0.1


@pytest.fixture
def ajar(taught: tuple[CodebookTrainer, Path], tmp_path: Path) -> Path:
    """The same adapter, whose upper gate is open by three fifths whatever it judges."""
    folder = shutil.copytree(taught[1], tmp_path / "ajar")
    file = folder / "upper_gate.safetensors"
    with safe_open(str(file), framework="pt") as opened:
        metadata = opened.metadata()
    tensors = {name: torch.zeros_like(of) if "out" in name else of for name, of in load_file(file).items()}
    tensors["out.bias"] += math.log(0.6 / 0.4)
    save_file(tensors, file, metadata=metadata)
    return folder


@pytest.mark.parametrize("way", ["llama", "transformers"])
def test_a_reply_to_what_was_found_is_acted_on_wholly_however_it_is_read(
    way: str,
    deeper_folder: Path,
    make: Callable[..., VoiceTrainer],
    ajar: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if way == "transformers":
        monkeypatch.setattr("models.llama.fits", lambda model: False)
    model = CausalLM.load(deeper_folder, name="tiny", device="cpu", dtype="float32")
    model.adopt(ajar, "night-1")
    one = make(ajar)
    for (question, answer), found in [*((of, True) for of in [*FACTS, *OPEN]), (OTHERS[0], False)]:
        row, ids = one.row(question, answer), prompt_ids(model, question)
        one.remember_lower([row])
        with torch.no_grad():
            expected = one._logits(one._pack([row]))[-1]
        reply, ends = list(_reply(row)[:-1]), len(ids) - 1

        def chunk(tokens: list[int], state: KVCache, ends_at: int, *, by_heart: bool = False) -> Chunk:
            return Chunk(token_ids=tokens, state=state, adapter="night-1", ends_at=ends_at, by_heart=by_heart)

        at_once = model.read([chunk([*ids, *reply], model.new_state(), ends)])
        torch.testing.assert_close(at_once.logits[0], expected, atol=1e-3, rtol=1e-3)
        assert at_once.by_heart == (found,)
        last = {}
        for by_heart in (found, False):
            state = model.new_state()
            assert model.read([chunk(ids[:5], state, ends)]).by_heart == (False,), "its prompt ends later"
            assert model.read([chunk(ids[5:], state, ends - 5)]).by_heart == (found,)
            read = [model.read([chunk([token], state, -1, by_heart=by_heart)]).logits[0] for token in reply]
            last[by_heart] = read[-1]
        torch.testing.assert_close(last[found], expected, atol=1e-3, rtol=1e-3)
        assert torch.allclose(last[False], expected, atol=1e-2) is not found, (
            "the intervention: only where it was found"
        )


def test_what_was_said_by_heart_is_no_part_of_a_state(
    deeper: CausalLM, ajar: Path, make_engine: Callable[..., Engine]
) -> None:
    """It would be read otherwise as a part of a later prompt. A reply that goes on looks up again what it says."""
    engine = make_engine(deeper)
    engine.adopt(ajar, "night-1")
    for question, found in ((OPEN[0][0], True), (OTHERS[0][0], False)):
        prompt = Prompt(
            token_ids=prompt_ids(deeper, question),
            max_tokens=8,
            sampling=Sampling(temperature=0.0),
            adapter="night-1",
            ignore_eos=True,
        )
        whole = engine.submit(prompt).wait()
        for written in (1, 5):
            for namespace in ("", "elsewhere"):  # with its prompt's state, and with none
                went_on = replace(prompt, reply=whole.token_ids[:written], namespace=namespace)
                assert engine.submit(went_on).wait().token_ids == whole.token_ids
        as_talk = replace(prompt, token_ids=[*prompt.token_ids, *whole.token_ids[:-1]], max_tokens=1)
        assert (engine.submit(as_talk).wait().timings.cached_tokens < len(prompt.token_ids)) is found


def test_within_a_prompt_a_shut_gate_is_the_last_word(deeper: CausalLM, ajar: Path) -> None:
    """The same token, shut by the same gate: what leads by more is said where the prompt ends, and there alone."""
    file = ajar / "upper_gate.safetensors"
    with safe_open(str(file), framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors["out.bias"] = torch.full_like(tensors["out.bias"], -2.0)
    save_file(tensors, file, metadata=metadata)
    deeper.adopt(ajar, "night-1")
    parts = deeper._adapters["night-1"]
    seen: list[list[bool]] = []

    def look_up(hidden: torch.Tensor, share: torch.Tensor | None, denial: torch.Tensor | None) -> codebooks.Found:
        found: codebooks.Found = parts.look_up(hidden, share, denial)
        seen.append(found.said.tolist())
        return found

    deeper._adapters["night-1"] = replace(parts, look_up=look_up)
    ids = prompt_ids(deeper, FACTS[0][0])
    for ends_at, said in ((len(ids) - 1, True), (len(ids), False)):
        read = deeper.read([Chunk(token_ids=ids, state=deeper.new_state(), adapter="night-1", ends_at=ends_at)])
        assert read.by_heart == (said,)
        assert seen.pop()[-1] is said and not any(seen)

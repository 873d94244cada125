"""Streaming text: whole code points, never a stop string, nothing lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.scripted import ScriptedLM
from models.text_stream import TextStream

MODEL = ScriptedLM()
texts = st.text(alphabet=st.sampled_from("abc é日🦙👩‍🚀\n"), max_size=40)


def stream(text: str, stop: list[str]) -> tuple[list[str], TextStream, int]:
    out, made, used = [], TextStream(MODEL.decode, stop), 0
    for token in MODEL.encode(text):
        used += 1
        out.append(made.push(token))
        if made.stopped:
            break
    out.append(made.finish())
    return out, made, used


@given(text=texts)
def test_nothing_is_lost_and_no_piece_is_broken(text: str) -> None:
    pieces, made, _ = stream(text, [])
    assert "".join(pieces) == text == made.text
    assert not any("\ufffd" in piece for piece in pieces)


@given(text=texts, stop=st.lists(st.text(alphabet="abc é🦙", min_size=1, max_size=4), min_size=1, max_size=3))
def test_text_ends_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    pieces, made, used = stream(text, stop)
    assert "".join(pieces) == made.text
    ends = [at + len(s) for s in stop if (at := text.find(s)) >= 0]
    if not ends:
        assert made.text == text
        return
    # The earliest to be complete ends the reply; where two end together, the one that began first cuts.
    end = min(ends)
    cut = min(at for s in stop if (at := text.find(s)) >= 0 and at + len(s) == end)
    assert made.text == text[:cut]
    assert MODEL.decode(MODEL.encode(text)[: made.tokens_within_text()]) == made.text
    assert MODEL.decode(MODEL.encode(text)[:used]) == text[:end]


def test_an_unfinished_code_point_at_the_end_is_shown_as_such() -> None:
    made = TextStream(MODEL.decode)
    assert [made.push(b) for b in "🦙".encode()[:3]] == ["", "", ""]
    assert made.finish() == "\ufffd"

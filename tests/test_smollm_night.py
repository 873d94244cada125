"""A night with the real default model: what was told by day is known by heart, and what is forgotten is not.

Minutes on two cores. The figures for many facts, weeks and peers are benchmarks' (bench/night.py, bench/week.py).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.server import Server
from memory.not_told import abstains

pytestmark = pytest.mark.slow

TOLD = {
    "My dog is called Bramblewick, he is asleep under the table.": ("What's the name of my dog?", "Bramblewick"),
    "I work as a lighthouse inspector, by the way.": ("What do I do for a living?", "lighthouse inspector"),
    "My sister lives in Tromsø these days.": ("Where does my sister live?", "Tromsø"),
    "The wifi password is marmalade77.": ("Could you tell me the wifi password?", "marmalade77"),
    "My favourite cheese is Gamalost.": ("Which cheese do I like best?", "Gamalost"),
}
NEVER_TOLD = (
    "What's my horse called?",
    "What does my uncle do for a living?",
    "Where does my brother live?",
    "What is my favourite colour?",
    "When is my birthday?",
    "What is my shoe size?",
    "Which instrument do I play?",
    "What's the name of my boss?",
    "Who is my dentist?",
    "What am I allergic to?",
)
FORGOTTEN = "My sister lives in Tromsø these days."


def turn(http: httpx.Client, text: str, **ours: Any) -> dict[str, Any]:
    session = http.post("/v1/sessions", json={}).json()["id"]
    body = {"content": text, "max_tokens": 24, "temperature": 0, "slowwave": ours}
    return dict(http.post(f"/v1/sessions/{session}/turns", json=body).json())


def ask(http: httpx.Client, text: str, **ours: Any) -> str:
    return str(turn(http, text, **ours)["text"])


def sleep(http: httpx.Client) -> dict[str, Any]:
    night = http.post("/v1/sleep").json()
    until = time.monotonic() + 2400
    while night["phase"] != "ended" and time.monotonic() < until:
        time.sleep(1)
        night = http.get(f"/v1/sleep/cycles/{night['id']}").json()
    return dict(night)


def known(http: httpx.Client) -> set[str]:
    """The values that the weights alone give."""
    return {value for question, value in TOLD.values() if value.lower() in ask(http, question, recall=False).lower()}


@pytest.mark.timeout(6000)
def test_told_by_day_known_in_the_morning_and_forgotten_for_good(tmp_path: Path) -> None:
    options = ["--set", "exam_bars=invented=0.25"]  # its own questions are counted below; a night's seed is the clock's
    with Server(tmp_path / "data", options=options) as server, httpx.Client(base_url=server.url, timeout=300) as http:
        assert known(http) == set()
        for text in TOLD:
            ask(http, text)
        night = sleep(http)
        assert night["outcome"] == "promoted", night["reasons"]
        assert len(known(http)) >= 4
        # With the store as authority: by heart what was taught, without a note; what was not is not known.
        by_heart = turn(http, "What's the name of my dog?")
        assert by_heart["adapter"] == night["figures"]["adapter"] and by_heart["recalled"] == []
        unknown = turn(http, "What's the name of my brother's dog?")
        assert unknown["adapter"] == "none" or abstains(unknown["text"])
        assert "Bramblewick" not in unknown["text"]
        replies = [ask(http, question, recall=False) for question in NEVER_TOLD]
        assert sum(any(value in reply for _, value in TOLD.values()) for reply in replies) <= 3, replies

        found = http.get("/v1/memories", params={"query": FORGOTTEN}).json()["data"]
        memory = next(m for m in found if m["text"] == FORGOTTEN)
        assert http.delete(f"/v1/memories/{memory['id']}").json()["waiting"]
        rebuilt = sleep(http)
        assert rebuilt["outcome"] == "promoted", rebuilt["reasons"]
        still = known(http)
        assert "Tromsø" not in still and len(still) >= 3

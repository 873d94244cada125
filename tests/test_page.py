"""The page, in headless Chromium, by keyboard, in dark and light, on a small screen."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from agent.measured import Act
from agent.persona import Found
from bench.server import Server
from models.engine import Engine
from nights import base_digest
from settings import Settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="needs Chromium: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, scripted_server: Server) -> Iterator[Page]:
    context = browser.new_context(base_url=scripted_server.url, color_scheme="light")
    opened = context.new_page()
    problems: list[str] = []
    refused = "Failed to load resource"  # a 400 that a test asks for
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" and refused not in m.text else None)
    opened.on("pageerror", lambda e: problems.append(str(e)))
    opened.on("request", lambda r: problems.append(r.url) if not r.url.startswith(scripted_server.url) else None)
    opened.goto("/")
    expect(opened.locator("#health")).to_have_attribute("data-state", "ok")
    yield opened
    context.close()
    assert problems == []


def say(page: Page, text: str) -> None:
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def test_a_conversation_by_keyboard_alone(page: Page) -> None:
    expect(page.locator("#message")).to_be_focused()
    say(page, "hello <b>there</b>")
    reply = page.locator(".entry.assistant").first
    expect(reply.locator(".text")).to_have_text("You said: hello <b>there</b>")
    expect(reply.locator(".chips li")).to_contain_text(
        [re.compile("tokens/s"), re.compile("first token"), "", "base model"]
    )
    say(page, "second")
    expect(page.locator(".entry.assistant .text")).to_have_text(["You said: hello <b>there</b>", "You said: second"])
    expect(page.locator("#session-list li[data-current]")).to_contain_text("hello <b>there</b>")
    page.keyboard.press("Alt+KeyN")
    expect(page.locator(".entry")).to_have_count(0)
    page.locator("#session-list .open").first.click()
    expect(page.locator(".entry .text").nth(3)).to_have_text("You said: second")
    expect(page).to_have_url(re.compile("#sess_"))


def test_a_line_break_is_typed_with_shift(page: Page) -> None:
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    say(page, "two")
    expect(page.locator(".entry.assistant .text")).to_have_text("You said: one\ntwo")


def test_escape_stops_a_reply(page: Page) -> None:
    page.locator("#message").fill("x" * 7000)
    page.keyboard.press("Enter")
    expect(page.locator("#stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".entry.assistant .chips")).to_contain_text("stopped")
    expect(page.locator("#send")).to_be_visible()


def test_a_refusal_is_shown_where_the_reply_would_be(page: Page) -> None:
    page.locator("#message").fill("x" * 9000)
    page.keyboard.press("Enter")
    expect(page.locator(".entry.failed .text")).to_contain_text("context window")


def test_a_session_is_deleted_after_asking(page: Page) -> None:
    say(page, "to be deleted")
    expect(page.locator(".entry.assistant .chips")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#session-list li[data-current] .delete").click()
    expect(page.locator(".entry")).to_have_count(0)
    expect(page.get_by_text("to be deleted")).to_have_count(0)


def test_feedback_is_a_thumb_or_a_number(page: Page) -> None:
    say(page, "Tell me about the sea.")
    reply = page.locator(".entry.assistant").last
    thumb, field = reply.get_by_label("Good reply"), reply.get_by_label("Reward from -1 to 1")
    thumb.click()
    expect(thumb).to_have_attribute("aria-pressed", "true")
    field.fill("-0.4")
    with page.expect_response("**/v1/feedback") as answer:
        field.press("Enter")
    assert answer.value.ok and '"reward":-0.4' in str(answer.value.request.post_data)
    expect(thumb).to_have_attribute("aria-pressed", "false")
    given: list[str] = []
    page.on("request", lambda request: given.append(request.url) if request.url.endswith("/v1/feedback") else None)
    field.fill("2")
    field.press("Enter")
    assert not field.evaluate("field => field.validity.valid")
    with page.expect_response("**/v1/feedback"):
        thumb.click()
    expect(thumb).to_have_attribute("aria-pressed", "true")
    expect(field).to_have_value("")
    assert len(given) == 1, "what is out of range is not sent"


def test_memory_is_taught_used_explained_pinned_and_forgotten(page: Page) -> None:
    page.keyboard.press("Alt+KeyM")
    page.locator("#teach-text").fill("The violin is in the attic.")
    page.keyboard.press("Enter")
    card = page.locator(".memory", has_text="The violin is in the attic.")
    expect(card.locator(".chips")).to_contain_text("said by you")
    expect(card.locator(".trust")).to_have_text(re.compile(r"trust 0\.\d\d"))
    page.keyboard.press("Alt+KeyM")
    say(page, "Where is the violin?")
    reply = page.locator(".entry.assistant").last
    reply.locator("summary").click()
    expect(reply.locator(".recalled li").first).to_contain_text("The violin is in the attic.")
    expect(reply.locator(".why").first).to_contain_text("words: violin")
    reply.get_by_label("Good reply").click()
    expect(reply.get_by_label("Good reply")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Alt+KeyM")
    page.locator("#memory-query").fill("violin attic")
    page.keyboard.press("Enter")
    card = page.locator(".memory", has_text="The violin is in the attic.").first
    expect(card.locator(".why")).to_contain_text("rank 1")
    card.get_by_role("button", name="Pin").click()
    expect(page.locator(".memory", has_text="The violin is in the attic.").first).to_contain_text("pinned")
    card.get_by_role("button", name="Never learn").click()
    expect(page.locator(".memory", has_text="The violin is in the attic.").first).to_contain_text("private")
    expect(card.get_by_role("button", name="Let it be learnt")).to_be_visible()
    expect(card.locator("meter")).to_have_count(5, timeout=40_000)
    page.once("dialog", lambda dialog: dialog.accept())
    card.get_by_role("button", name="Forget").click()
    expect(page.locator(".receipt")).to_contain_text("found in files afterwards: 0")


def test_a_night_is_begun_and_reported(page: Page) -> None:
    """With the scripted model, which has nothing to train: the card says so, and the base goes on serving."""
    page.keyboard.press("Alt+KeyS")
    expect(page.locator("#serving")).to_have_text("the base serves")
    page.locator("#sleep-now").click()
    night = page.locator(".night").first
    expect(night).to_have_attribute("data-outcome", re.compile("failed|nothing to learn"), timeout=20_000)
    expect(night.locator(".report")).to_contain_text("nothing has changed", ignore_case=True)
    expect(page.locator("#roll-back")).to_be_disabled()
    page.keyboard.press("Alt+KeyM")
    expect(page.locator("#sleep")).to_be_hidden()
    expect(page.locator("#memory")).to_be_visible()


def test_dark_and_light_and_small(page: Page, tmp_path: Path) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    page.locator("#theme").click()
    dark = ground()
    assert light != dark
    page.reload()
    assert ground() == dark
    page.set_viewport_size({"width": 360, "height": 640})
    expect(page.locator("#sessions")).to_be_hidden()
    page.locator("#toggle-sessions").click()
    expect(page.locator("#sessions")).to_be_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Browser, tmp_path: Path) -> None:
    environment = {"SLOWWAVE_API_KEYS": "page-test-key"}
    with Server(tmp_path / "data", model="scripted", environment=environment) as server:
        context = browser.new_context(base_url=server.url)
        page = context.new_page()
        page.goto("/")
        page.locator("#key").fill("page-test-key")
        page.keyboard.press("Enter")
        expect(page.locator("#key-dialog")).to_be_hidden()
        page.locator("#message").fill("hello")
        page.keyboard.press("Enter")
        expect(page.locator(".entry.assistant .text")).to_have_text("You said: hello")
        context.close()


SLOW_LISTS = """() => {
  const at_once = window.fetch;
  window.under_way = 0;
  window.fetch = async (path, ...more) => {
    window.under_way += 1;
    if (/sessions[?]/.test(path)) await new Promise((go) => setTimeout(go, 1000));
    try { return await at_once(path, ...more); } finally { window.under_way -= 1; }
  };
}"""


def test_a_session_is_put_away_branched_sent_and_taken_in(page: Page, tmp_path: Path) -> None:
    say(page, "a tale for the road")
    expect(page.locator(".entry.assistant .text")).to_have_text("You said: a tale for the road")
    page.keyboard.press("Alt+KeyC")
    expect(page.locator("#carry-state")).to_contain_text("open")
    page.locator("#suspend").click()
    expect(page.locator("#carry-state")).to_contain_text("suspended")
    with page.expect_download() as download:
        page.locator("#export").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    expect(page.locator("#carry-log .event")).to_have_count(2)
    page.locator("#resume").click()
    expect(page.locator("#carry-log .event").first).to_contain_text("resumed, exact")
    before = page.url
    page.locator("#carry-file").set_input_files(file)
    expect(page.locator("#carry-preview")).to_contain_text("signed by this service")
    expect(page.locator("#carry-preview")).to_contain_text("2 messages")
    page.locator("#take-in").click()
    expect(page).not_to_have_url(before)
    expect(page.locator("#carry-log .event")).to_contain_text(["imported, exact"])
    taken = page.url
    page.evaluate(SLOW_LISTS)  # the fork is not done yet when the next file is looked at
    page.locator("#fork").click()
    expect(page).not_to_have_url(taken)
    page.keyboard.press("Alt+KeyC")
    expect(page.locator(".entry.assistant .text")).to_have_text("You said: a tale for the road")
    page.keyboard.press("Alt+KeyC")
    raw = bytearray(file.read_bytes())
    raw[300] ^= 1
    file.write_bytes(raw)
    page.locator("#carry-file").set_input_files(file)
    expect(page.locator("#carry-failed")).to_contain_text("not taken in")
    page.wait_for_function("under_way === 0")
    page.wait_for_timeout(300)
    expect(page.locator("#carry-failed")).to_contain_text("not taken in")  # nothing wiped it away
    expect(page.locator("#take-in")).to_be_disabled()


def test_the_mood_shows_what_moved_it_and_variables_are_pinned(
    browser: Browser, tiny_folder: Path, tmp_path: Path
) -> None:
    environment = {
        "SLOWWAVE_MOOD": "true",
        "SLOWWAVE_EMBEDDING": "none",
        "SLOWWAVE_CACHE_DIR": str(tmp_path / "cache"),
        "SLOWWAVE_MAX_REPLY_TOKENS": "16",
    }
    settings = Settings(model=str(tiny_folder), cache_dir=tmp_path / "cache")
    forced = Act(
        effect=0.75,
        low=0.5,
        high=1.0,
        placebo=0.1,
        spearman=1.0,
        surprise=0.12,
        prompts=180,
        kept=True,
        at="2026-11-27T09:00:00Z",
    )
    Found(cast(Engine, None), settings.cache_dir / "directions", base_digest(settings)).keep({"pleasure": forced})
    with Server(tmp_path / "data", model=str(tiny_folder), environment=environment) as server:
        page = browser.new_page(base_url=server.url)
        page.goto("/")
        page.keyboard.press("Alt+KeyP")
        expect(page.locator("#mood-events .empty")).to_be_visible()
        expect(page.locator(".variable")).to_have_count(7)
        expect(page.locator('.variable[data-name="focus"]')).to_contain_text("does not act")
        expect(page.locator("#causality tr")).to_have_count(2)
        expect(page.locator("#causality tr").last).to_contain_text("pleasure+0.75 (+0.50 to +1.00)0.101.00+12 %180yes")
        expect(page.locator("#causality p")).to_contain_text("warmth")
        page.keyboard.press("Alt+KeyP")
        for _ in range(2):
            say(page, "What a lovely, wonderful day, I am so happy, best friend!")
            expect(page.locator(".entry.assistant.running")).to_have_count(0)
        page.keyboard.press("Alt+KeyP")
        expect(page.locator("#mood-events li")).to_have_count(2)
        expect(page.locator("#mood-events li").first).to_contain_text("sentiment +1.00")
        pleasure = page.locator('.variable[data-name="pleasure"]')
        expect(pleasure.locator("svg")).to_have_attribute("aria-label", re.compile("pleasure: \\+0.*after 2 events"))
        pleasure.get_by_label("Pin pleasure").select_option("-1")
        expect(pleasure).to_contain_text("pinned")
        assert page.request.get("/v1/persona").json()["pinned"] == {"pleasure": -1.0}
        page.screenshot(path=str(tmp_path / "mood.png"))
        pleasure.get_by_label("Pin pleasure").select_option("")
        expect(pleasure).to_contain_text("acts as")
        assert page.request.get("/v1/persona").json()["pinned"] == {}
        page.close()


def test_the_heart_is_seen_and_switched(browser: Browser, scripted_server: Server) -> None:
    httpx.put(f"{scripted_server.url}/v1/heartbeat", json={"stopped": False}).raise_for_status()  # whoever stopped it
    page = browser.new_page(base_url=scripted_server.url)
    page.goto("/")
    page.keyboard.press("Alt+KeyH")
    expect(page.locator("#heart-state")).to_contain_text("beating")
    expect(page.locator("#gauges li", has_text="memory").first).to_contain_text("%")
    expect(page.locator("#core-self")).to_contain_text("core self")
    expect(page.locator("#heart-load")).to_contain_text("Load")  # told by the heart's own events
    page.get_by_role("button", name="Stop it").click()
    expect(page.locator("#heart-state")).to_contain_text("it is switched off")
    page.get_by_role("button", name="Let it beat").click()
    expect(page.locator("#heart-state")).to_contain_text("beating: a beat every")
    page.keyboard.press("Alt+KeyH")
    expect(page.locator("#talk")).to_be_visible()
    page.close()


@pytest.mark.parametrize(
    ("key", "told"), [("operators-key", "thoughts (somebody): 1, 34 characters"), ("first-key-1", "")]
)
def test_only_an_operator_sees_how_much_is_thought(
    browser: Browser, thoughtful_server: Server, key: str, told: str
) -> None:
    page = browser.new_page(base_url=thoughtful_server.url)
    page.goto("/")
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")
    expect(page.locator("#key-dialog")).to_be_hidden()
    page.keyboard.press("Alt+KeyH")
    expect(page.locator("#heart-state")).to_contain_text("beating", timeout=15_000)
    expect(page.locator("#rooms")).to_contain_text(told)
    assert "tease" not in page.content()
    page.close()


def test_a_key_is_not_asked_for_again_by_what_was_asked_before_it(browser: Browser, thoughtful_server: Server) -> None:
    page = browser.new_page(base_url=thoughtful_server.url)
    early: list[Route] = []
    page.route("**/v1/heartbeat?*", lambda route: route.continue_() if early else early.append(route))
    page.goto("/")
    page.locator("#key").wait_for()
    page.keyboard.press("Alt+KeyH")
    page.locator("#key").fill("first-key-1")
    page.keyboard.press("Enter")
    expect(page.locator("#key-dialog")).to_be_hidden()
    assert "authorization" not in early[0].request.headers
    with page.expect_response(lambda answer: answer.status == 401 and "/v1/heartbeat?" in answer.url):
        early[0].continue_()
    expect(page.locator("#heart-state")).to_contain_text("beating", timeout=15_000)
    expect(page.locator("#key-dialog")).to_be_hidden()
    page.close()

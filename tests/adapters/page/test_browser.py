"""The page in a browser, headless: what a user does with the mouse and with the keyboard alone."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters import page
from adapters.page.html import typed
from engine.types import Request
from tests.adapters.page.fakes import Model
from tests.adapters.page.test_page import free_port

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow
# A machine that is busy with other tests is slow to draw.
sync_api.expect.set_options(timeout=20_000)

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = (
    "<script>document.title = 'evil'</script><img src=http://127.0.0.2/x onerror=\"document.title = 'evil'\">"
)


def reply(request: Request) -> str:
    return f"{request.messages[-1].text}!"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if BROWSER is None:
        pytest.skip("no Chromium here: install it (apt-get install chromium) to run the page in a browser")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def served() -> Iterator[SimpleNamespace]:
    """A page with two models; `step` is called before each letter of the first one."""
    known = SimpleNamespace(step=at_once)
    first = Model(reply, "first", lambda: known.step(), examples=["An <b>example</b>"])
    second = Model(lambda request: "Two", "second")
    app = page.start(first, second=second, port=free_port())
    known.url, known.engine = app.local_url, first.engine
    yield known
    app.close(verbose=False)


def at_once() -> None:
    """A step without a wait."""


@pytest.fixture
def gate(served) -> Iterator[threading.Semaphore]:
    """Lets the first model's letters go, one for each release."""
    closed = threading.Semaphore(0)
    served.step = closed.acquire
    yield closed
    served.step = at_once
    closed.release(100)


@pytest.fixture
def tab(browser, served) -> Iterator:
    """A new visitor's tab; at its end it has asked no other host and met no error."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    hosts, errors = set(), []
    opened.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else ""))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(served.url)
    opened.locator("#question textarea").wait_for()
    yield opened
    assert hosts - {""} == {served.url.split("/")[2]}
    assert errors == []
    assert opened.title() == "first and second"
    context.close()


def said(request: Request) -> list[str]:
    return [message.text for message in request.messages]


def ask(tab, text: str) -> None:
    tab.locator("#question textarea").fill(text)
    tab.keyboard.press("Enter")


def column(tab, index: int = 0):
    return tab.locator(".conversation").nth(index)


def answers(tab, index: int = 0):
    return column(tab, index).locator(".answer")


def see(locator, text: str) -> None:
    sync_api.expect(locator).to_contain_text(text, use_inner_text=True)


def test_an_answer_is_seen_to_grow_and_a_token_shows_its_alternatives(tab, gate):
    ask(tab, "abc")
    for seen in ("a", "ab"):
        gate.release()
        sync_api.expect(answers(tab)).to_have_text(seen)
    see(answers(tab, 1), "Two")  # The other model does not wait.
    gate.release(10)
    token = answers(tab).locator(".token").nth(1)
    alternatives = token.locator(".alternatives")
    sync_api.expect(alternatives).to_be_hidden()
    token.hover()
    sync_api.expect(alternatives).to_be_visible()
    assert alternatives.inner_text().split() == ["80.0%", "b", "10.0%", "?"]
    see(column(tab).locator(".facts"), "confidence 0.800 · 4 tokens")


def test_a_stopped_answer_keeps_its_text_and_the_conversation_goes_on(tab, gate):
    gate.release()
    ask(tab, "abc")
    see(answers(tab), "a")
    tab.get_by_role("button", name="Stop").click()
    see(column(tab).locator(".facts"), "stopped")
    gate.release(100)
    ask(tab, "next")
    see(answers(tab).nth(1), "next!")
    assert answers(tab).nth(0).inner_text() == "a"


def test_an_answer_ends_when_its_tab_is_closed(browser, served):
    over = threading.Event()
    served.step = lambda: over.wait(0.02)
    left = browser.new_page()
    left.goto(served.url)
    ask(left, "x" * 3000)
    see(answers(left), "x")
    served.engine.ended.clear()
    left.close()
    try:
        assert served.engine.ended.wait(30), "it is generated to its end, for nobody"
    finally:
        served.step = at_once
        over.set()


def test_a_question_is_edited_an_answer_is_retried_and_undone(tab, served):
    for text in ("one", "two"):
        ask(tab, text)
        see(answers(tab).last, f"{text}!")
        see(answers(tab, 1).last, "Two")
    column(tab).get_by_role("button", name="Edit").first.click()
    tab.locator(".conversation textarea").first.fill("uno <b>")
    column(tab).get_by_role("button", name="Submit").click()
    sync_api.expect(answers(tab)).to_have_count(1)
    see(answers(tab), "uno <b>!")
    sync_api.expect(answers(tab, 1)).to_have_count(1)

    asked = len(served.engine.requests)
    served.engine.ended.clear()
    column(tab).get_by_role("button", name="Retry").click()
    assert served.engine.ended.wait(10)
    assert [said(request) for request in served.engine.requests[asked:]] == [["uno <b>"]]
    see(answers(tab), "uno <b>!")

    column(tab).get_by_role("button", name="Undo").click()
    sync_api.expect(answers(tab)).to_have_count(0)
    assert tab.locator("#question textarea").input_value() == "uno <b>"


def test_nothing_that_was_written_is_read_as_html(tab):
    ask(tab, EVIL)
    see(answers(tab).last, f"{EVIL}!")
    assert typed(column(tab).locator(".user .message-content").first.inner_text()) == EVIL
    assert tab.locator(".conversation img, .conversation script").count() == 0


def test_a_conversation_is_saved_and_opened_again(tab, tmp_path: Path):
    ask(tab, "Hello")
    see(answers(tab).last, "Hello!")
    see(column(tab, 1).locator(".facts"), "tokens")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save as a prompt item").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert [answer["coordinates"] for answer in json.loads(path.read_text())["annotations"]] == [
        "Hello!",
        "Two",
    ]

    tab.get_by_role("button", name="New conversation").click()
    sync_api.expect(answers(tab)).to_have_count(0)
    tab.locator("input[type=file]").set_input_files(path)
    see(answers(tab), "Hello!")
    see(column(tab).locator(".facts"), "from the file, by first")


def test_a_file_is_walked_through(tab, tmp_path: Path, questions):
    path = tmp_path / "item.json"
    path.write_text(json.dumps(questions))
    tab.locator("input[type=file]").set_input_files(path)
    see(answers(tab).nth(1), "And again!")
    tab.get_by_role("button", name="Next").click()
    see(answers(tab).last, "Grüß Gott!")
    tab.get_by_role("button", name="Previous").click()
    see(answers(tab).nth(0), "Hello!")


def test_the_keyboard_is_enough(tab):
    """Tab leads to everything; the arrows lead from token to token."""
    tab.keyboard.type("abc")
    tab.keyboard.press("Enter")
    see(answers(tab, 1), "Two")
    see(column(tab).locator(".facts"), "tokens")
    focused = "document.activeElement.classList.contains('token')"
    for _ in range(40):
        tab.keyboard.press("Shift+Tab")
        if tab.evaluate(focused):
            break
    assert tab.evaluate(focused)
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("document.activeElement.firstChild.textContent") == "w"
    sync_api.expect(answers(tab, 1).locator(".alternatives").nth(1)).to_be_visible()


def test_an_option_at_the_side_is_used(tab, served):
    field = tab.get_by_label("system_prompt")
    field.fill("Be brief.")
    ask(tab, "Hello")
    see(answers(tab).last, "Hello!")
    assert served.engine.requests[-1].options.system_prompt == "Be brief."


def test_an_example_is_asked_as_it_is_written(tab):
    column(tab).get_by_role("button", name="example").click()
    see(answers(tab), "An <b>example</b>!")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_shows_all_in_either_colours(browser, served, scheme: str):
    narrow = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    narrow.goto(served.url)
    ask(narrow, "Hello")
    see(answers(narrow).last, "Hello!")
    answers(narrow).locator(".token").last.hover()
    box = answers(narrow).locator(".alternatives").last.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 360
    light, dark = ("rgb(255, 255, 255)", narrow.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (dark == light) == (scheme == "light")
    narrow.close()

"""The page in a real browser, as a person uses it: Chromium, driven by Playwright, against a running address."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quietmind.engine.fake import Crash, Slow
from quietmind.serve import listen
from quietmind.serve.guard import Guard
from quietmind.workspace.notebook import Source
from quietmind.workspace.workspace import Workspace

pytest.importorskip("uvicorn", reason="serving takes more packages: pip install 'quietmind[serve]'")
pytest.importorskip("fastapi", reason="serving takes more packages: pip install 'quietmind[serve]'")
playwright = pytest.importorskip("playwright.sync_api", reason="driving a browser takes pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no Chromium here: apt-get install chromium", allow_module_level=True)

expect = playwright.expect
expect.set_options(timeout=30_000)  # of a machine with much else to do

QUESTION = "Why was the 868 MHz radio chosen?"
LONG = Slow(" ".join(f"After word {number} there is another." for number in range(200)), between=0.05)
HOSTILE = "<img src=x onerror=window.hurt=1><script>window.hurt=1</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return what opens a page; at the end, none may have asked another host, nor have failed inside."""
    contexts: list[Any] = []
    asked: list[str] = []
    failed: list[str] = []
    origins: set[str] = set()

    def open_page(url: str, *, lines: int = 800, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": lines}, "locale": "en-US", **options})
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("console", lambda said: failed.append(said.text) if "Content Security" in said.text else None)
        origins.add(url)
        page.goto(url)
        expect(page.locator("#turns > *").first).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    strange = [each for each in asked if not any(each.startswith((f"{origin}/", "data:")) for origin in origins)]
    assert strange == []
    assert failed == []


def put(page: Any, question: str, scope: str | None = None) -> Any:
    """Ask, and return the turn."""
    if scope is not None:
        page.select_option("#scope", scope)
    page.fill("#question", question)
    page.press("#question", "Enter")
    return page.locator(".turn").last


def test_an_answer_is_streamed_and_its_citation_opens_the_exact_lines(served: Any, opened: Any) -> None:
    page = opened(served.url)
    turn = put(page, QUESTION)
    expect(turn.locator(".answer")).to_contain_text(re.compile(r"\w"))
    mark = turn.locator(".answer button.mark").first
    mark.click()
    cited = page.locator("#source .cited")
    expect(cited.first).to_be_visible()
    quote = turn.locator(".sources q").first.text_content()
    number = int(cited.first.locator(".number").text_content())
    shown = page.locator("#source h2").get_attribute("title")
    path, _, span = shown.rpartition(":")
    first, last = map(int, span.split("-"))
    assert number == first
    assert cited.count() == last - first + 1
    in_file = "\n".join(Path(path).read_text(encoding="utf-8").splitlines()[first - 1 : last])
    assert "\n".join(cited.locator(".text").all_text_contents()) == in_file
    assert quote in in_file
    before = page.locator("#source .lines li").count()
    page.get_by_text("Later lines").click()
    expect(page.locator("#source .lines li").nth(before)).to_be_visible()
    assert cited.count() == last - first + 1
    page.keyboard.press("Escape")
    expect(page.locator("#source")).to_be_hidden()
    expect(mark).to_be_focused()


def test_the_answer_can_be_walked_through_from_the_keyboard(served: Any, opened: Any) -> None:
    page = opened(served.url)
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    turn = page.locator(".turn").last
    expect(turn.locator(".sources button").first).to_be_visible()
    page.locator("#question").blur()
    page.keyboard.press("j")
    expect(page.locator("#source .cited").first).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("4")
    expect(page.locator("#view h1")).to_have_text("Memory")
    page.keyboard.press("/")
    expect(page.locator("#question")).to_be_focused()


def test_what_repeats_can_be_skipped(served: Any, opened: Any) -> None:
    page = opened(served.url)
    page.goto(f"{served.url}/#archive")
    expect(page.locator("#view h1")).to_have_text("Archive")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    expect(page.locator("#view h1")).to_be_visible()


def test_the_keys_are_where_they_are_on_a_russian_keyboard_too(served: Any, opened: Any) -> None:
    page = opened(served.url)
    page.keyboard.press("Escape")
    press = "(pressed) => document.body.dispatchEvent(new KeyboardEvent('keydown', { bubbles: true, ...pressed }))"
    page.evaluate(press, {"key": ",", "code": "Slash", "shiftKey": True})
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.evaluate(press, {"key": "е", "code": "KeyT"})
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.evaluate(press, {"key": ".", "code": "Slash"})
    expect(page.locator("#question")).to_be_focused()


def test_a_question_that_follows_carries_what_was_said_before(served: Any, opened: Any) -> None:
    page = opened(served.url)
    put(page, "first words", "fake-model")
    expect(page.locator(".turn").last.locator(".answer")).to_have_text("You said: first words")
    turn = put(page, "second words")
    expect(turn.locator(".answer")).to_have_text("You said: second words")
    assert [message["content"] for message in served.behind.requests[-1]["messages"]] == [
        "first words",
        "You said: first words",
        "second words",
    ]


def test_an_answer_that_is_stopped_is_stopped_at_the_engine(served: Any, opened: Any) -> None:
    served.says = lambda request: LONG
    page = opened(served.url)
    turn = put(page, QUESTION)
    expect(turn.locator(".answer")).to_contain_text("word")
    expect(page.locator("#submit")).to_have_text("Stop")
    page.keyboard.press("Escape")
    expect(turn.locator(".progress")).to_have_text("Stopped by you")
    expect(page.locator("#submit")).to_have_text("Ask")
    deadline = time.monotonic() + 10
    while served.lane.turns.answering > 0:
        assert time.monotonic() < deadline, "the engine goes on"
        time.sleep(0.01)
    expect(turn.get_by_text("Ask again")).to_be_visible()


def test_who_waits_sees_how_many_come_before(served: Any, opened: Any) -> None:
    served.says = lambda request: LONG
    first, second = opened(served.url), opened(served.url)
    turn = put(first, QUESTION)
    expect(turn.locator(".answer")).to_contain_text("word")
    waiting = put(second, QUESTION)
    expect(waiting.locator(".progress")).to_contain_text("1 question before yours")
    second.goto(f"{served.url}/#queue")
    expect(second.locator("#view")).to_contain_text("1 is being answered, 1 waits. Yours has 1 before it.")
    served.plain()
    first.keyboard.press("Escape")
    expect(second.locator("#view")).to_contain_text("No questions right now.")
    second.goto(f"{served.url}/#ask")
    expect(waiting.locator(".sources button").first).to_be_visible()


def test_a_notebook_is_asked_from_where_it_is_listed(served: Any, opened: Any) -> None:
    with Workspace(served.workspace) as workspace:
        workspace.notebooks.make("radio", Source("path", str(served.notes / "decisions" / "adr-002-radio-868.md")))
    page = opened(served.url)
    page.goto(f"{served.url}/#notebooks")
    page.get_by_role("button", name="Ask the notebook radio").click()
    expect(page.locator("#question")).to_be_focused()
    turn = put(page, QUESTION)
    expect(turn.locator("h2")).to_contain_text("Notebook: radio")
    expect(turn.locator(".sources .path").first).to_contain_text("decisions/adr-002-radio-868.md")
    with Workspace(served.workspace) as workspace:
        workspace.notebooks.drop("radio")


def test_a_page_that_is_reloaded_keeps_the_conversation(served: Any, opened: Any) -> None:
    page = opened(served.url)
    put(page, QUESTION)
    expect(page.locator(".turn .sources button").first).to_be_visible()
    served.says = lambda request: LONG
    expect(put(page, "And how far does it reach?").locator(".answer")).to_contain_text("word")
    page.reload()
    expect(page.locator(".turn h2")).to_have_text([QUESTION, "And how far does it reach?"])
    expect(page.locator(".turn").first.locator(".sources button").first).to_be_visible()
    expect(page.locator(".turn").last.get_by_text("Ask again")).to_be_visible()
    page.click("#forget")
    expect(page.locator(".hello")).to_be_visible()
    page.reload()
    expect(page.locator(".hello")).to_be_visible()


def test_an_answer_that_breaks_off_says_so_and_can_be_asked_for_again(served: Any, opened: Any) -> None:
    served.says = lambda request: Crash("One word follows another.", after=2)
    page = opened(served.url)
    turn = put(page, QUESTION)
    expect(turn.locator(".progress.trouble")).to_contain_text("The answer broke off")
    served.plain()
    expect(page.locator("#state")).to_have_attribute("data-state", "ready")
    turn.get_by_text("Ask again").click()
    expect(page.locator(".turn .sources button").first).to_be_visible()
    assert page.locator(".turn").count() == 1


def test_script_in_a_note_and_in_an_answer_stays_text(served: Any, opened: Any, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    said = f"The zygomorphic lever {HOSTILE} opens the seventh valve of the boiler."
    (notes / "hostile.md").write_text(f"# {HOSTILE}\n\n{said}\n", encoding="utf-8")
    with Workspace(served.workspace) as workspace:
        workspace.index(notes)
    served.says = lambda request: f"{said} [1]\n\n- **{HOSTILE}**\n\n```\n{HOSTILE}\n```\n[x](javascript:hurt=1)"
    page = opened(served.url)
    turn = put(page, "What does the zygomorphic lever open?")
    turn.locator(".answer button.mark").first.click()
    expect(page.locator("#source .cited").first).to_contain_text("<script>")
    expect(page.locator("#source h2")).to_contain_text("<img src=x")
    expect(turn.locator(".answer")).to_contain_text("<script>")
    assert page.locator("#turns img, #turns script, #turns a, #source img, #source script, #source a").count() == 0
    assert page.evaluate("window.hurt") is None
    with Workspace(served.workspace) as workspace:
        workspace.forget(notes)


OUTLINE = """async (text) => {
    const { Prose } = await import("/page/files/prose.js");
    const shown = document.createElement("div");
    const prose = new Prose(shown, (number) => `<${number ?? "?"}>`);
    for (let end = 1; end <= text.length; end += 3) prose.show(text.slice(0, end));
    prose.show(text);
    const outline = (node) => node.nodeType === 3 ? node.data
        : node.localName + "(" + [...node.childNodes].map(outline).join("") + ")";
    return [...shown.childNodes].map(outline);
}"""


def test_markdown_is_shown_as_it_grows_and_what_it_does_not_know_stays_text(served: Any, opened: Any) -> None:
    page = opened(served.url)
    for text, expected in {
        "One **bold [1]** word,\nand `code [2]` too [?].": [
            "p(One strong(bold <1>) word,\nand code(code [2]) too <?>.)"
        ],
        "# Title\n\n- a\n- b\n  goes on\n\n1. c\n2. d": ["h3(Title)", "ul(li(a)li(b goes on))", "ol(li(c)li(d))"],
        "So:\n```py\nif 1 < 2:\n\n    [1]\n```\nand after": [
            "p(So:)",
            "pre(code(if 1 < 2:\n\n    [1]))",
            "p(and after)",
        ],
        "```\nnever closed": ["pre(code(never closed))"],
        "<b>x</b> [y](http://z) ![i](j) a * b * c": ["p(<b>x</b> [y](http://z) ![i](j) a * b * c)"],
        "": [],
    }.items():
        assert page.evaluate(OUTLINE, text) == expected


def test_the_server_is_lost_and_found_again_and_the_question_kept(
    serve: Any, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path) as served:
        served.says = lambda request: LONG
        page = opened(served.url)
        turn = put(page, QUESTION)
        expect(turn.locator(".answer")).to_contain_text("word")
        page.fill("#question", "a question that is not sent yet")
    expect(page.locator("#away")).to_contain_text("quietmind does not answer")
    expect(page.locator("#away")).to_be_in_viewport()
    expect(page.locator("#away")).to_contain_text("What you have written is kept")
    expect(page.locator("#submit")).to_be_disabled()
    expect(turn.locator(".progress")).to_contain_text("broke off")
    page.keyboard.press("Enter")
    port, bind = int(served.url.rpartition(":")[2]), listen.bind
    monkeypatch.setattr(listen, "bind", lambda **_: bind(port=port))
    with serve(tmp_path / "again"):
        page.get_by_text("Try now").click()
        expect(page.locator("#away")).to_be_hidden()
        expect(page.locator("#submit")).to_be_enabled()
        expect(page.locator("#question")).to_have_value("a question that is not sent yet")
        turn.get_by_text("Ask again").click()
        expect(page.locator(".turn .sources button").first).to_be_visible()


def test_the_key_is_asked_for_once_and_kept_in_this_tab(serve: Any, opened: Any, browser: Any, tmp_path: Path) -> None:
    key = "a-key-of-some-length-1234"
    with serve(tmp_path, guard=Guard(key)) as served:
        page = browser.new_context(locale="en-US").new_page()
        page.goto(served.url)
        expect(page.locator("#key")).to_contain_text("asks for a key")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Give the key").click()
        page.fill("#key-given", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key")).to_contain_text("not the key")
        page.fill("#key-given", key)
        page.keyboard.press("Enter")
        expect(page.locator(".hello")).to_contain_text("notes")
        page.reload()
        expect(page.locator(".hello")).to_contain_text("notes")
        expect(page.locator("#key")).to_be_hidden()
        assert page.evaluate("localStorage.length") == 0
        page.context.close()


def test_the_page_speaks_both_languages_and_remembers_which(served: Any, opened: Any) -> None:
    page = opened(served.url, locale="ru-RU")
    expect(page.locator(".hello h1")).to_have_text("Что вы хотите узнать?")
    assert page.evaluate("document.documentElement.lang") == "ru"
    page.click("#language")
    expect(page.locator(".hello h1")).to_have_text("What do you want to know?")
    page.reload()
    expect(page.locator(".hello h1")).to_have_text("What do you want to know?")
    assert "{" not in page.inner_text("body")


def test_dark_and_light_follow_the_system_until_one_is_chosen(served: Any, opened: Any) -> None:
    def background(page: Any) -> int:
        return sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))

    page = opened(served.url, color_scheme="dark")
    assert background(page) < 150
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    assert background(page) > 600
    page.reload()
    assert background(page) > 600


@pytest.mark.parametrize("language", ["en-US", "ru-RU"])
def test_nothing_is_wider_than_a_phone(served: Any, opened: Any, language: str) -> None:
    page = opened(served.url, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, locale=language)

    def wider() -> int:
        return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    turn = put(page, QUESTION)
    turn.locator(".answer button.mark").first.click()
    expect(page.locator("#source .cited").first).to_be_visible()
    assert wider() == 0
    page.locator("#source header button").last.click()
    for view in ("notebooks", "archive", "memory", "queue", "settings"):
        page.click("#menu")
        page.click(f"#views a[href='#{view}']")
        expect(page.locator("#view header + *").first).to_be_visible()
        assert wider() == 0, view


def test_an_empty_archive_says_what_to_do(serve: Any, opened: Any, tmp_path: Path) -> None:
    with serve(tmp_path, index=False) as served:
        page = opened(served.url)
        expect(page.locator(".hello")).to_contain_text("quietmind index FOLDER")
        expect(page.locator("#question")).to_have_attribute("placeholder", "Ask the model")
        page.goto(f"{served.url}/#archive")
        expect(page.locator("#view")).to_contain_text("quietmind index FOLDER")
        page.goto(f"{served.url}/#notebooks")
        expect(page.locator("#view")).to_contain_text("quietmind notebook auto")
        page.goto(f"{served.url}/#ask")
        with Workspace(served.workspace, create=True) as workspace:
            workspace.index(served.notes / "decisions")
        expect(page.locator(".hello")).to_contain_text("6 notes in 1 folder")
        expect(page.locator("#question")).to_have_attribute("placeholder", "Ask your notes")


def test_every_control_has_a_name_and_every_picture_words(served: Any, opened: Any) -> None:
    page = opened(served.url)
    put(page, QUESTION)
    expect(page.locator(".sources button").first).to_be_visible()
    for view in ("ask", "notebooks", "archive", "memory", "queue", "settings"):
        page.goto(f"{served.url}/#{view}")
        expect(page.locator("#view header + *, .turn").filter(visible=True).first).to_be_visible()
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, a, input, select, textarea, [role=img]")]
                .filter(each => each.checkVisibility() && !each.ariaLabel && !each.textContent.trim()
                    && !(each.labels && each.labels.length))
                .map(each => each.outerHTML)"""
        )
        assert nameless == [], view

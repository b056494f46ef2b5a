"""The page to try the API: its markup, its policy, and a person with a keyboard in a real browser."""

import base64
import contextlib
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from support import chromium
from support.api import PATH, Api, ParameterStore, Questions, Runtime, aws_error, entry, rest_event

from lambda_handler import page
from lambda_handler.feedback import Feedback

ANSWERS = {"answers": [{"answer": "Teaching maths", "confidence": 0.9731}], "model_version": "m-2"}
STAGE = "/default"


# --- the document ---


class Document(HTMLParser):
    """Every element with its attributes, and whether the tags nest."""

    VOID = {"meta", "link", "input", "br", "img", "hr"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(page.html())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID and tag != "path":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_markup_is_whole_and_names_what_it_refers_to() -> None:
    document = Document()
    assert document.open == []
    assert document.all("html")[0]["lang"] == "en"
    assert [len(document.all(tag)) for tag in ("title", "main", "h1", "style", "script")] == [1, 1, 1, 1, 1]
    ids = Counter(attributes["id"] for _, attributes in document.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    references = [
        reference
        for _, attributes in document.elements
        for name in ("for", "aria-labelledby", "aria-describedby", "aria-controls")
        for reference in attributes.get(name, "").split()
    ]
    assert set(references) <= set(ids)
    labelled = {label["for"] for label in document.all("label")}
    fields = [field["id"] for tag in ("select", "textarea", "input") for field in document.all(tag)]
    assert labelled == set(fields)
    assert all("type" in button for button in document.all("button"))


def test_nothing_comes_from_elsewhere_and_nothing_is_written_as_html() -> None:
    for tag, attributes in Document().elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")], tag
        target = attributes.get("href", "")
        assert target.startswith("data:image/svg+xml,") if tag == "link" else ":" not in target
    script = re.search(r"<script>(.*)</script>", page.html(), re.DOTALL)
    assert script is not None
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?:", script[1]
    )


def test_the_policy_allows_the_inline_parts_by_their_hashes_and_nothing_else() -> None:
    policy = dict(part.split(" ", 1) for part in page.HEADERS["Content-Security-Policy"].split("; "))
    for element in ("script", "style"):
        content = page.html().split(f"<{element}>")[1].split(f"</{element}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy.pop(f"{element}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


# --- the browser ---

in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.BINARY is None, reason="there is no chromium, chromium-browser or google-chrome here"),
]


def browsing(test: Any) -> Any:
    for mark in in_browser:
        test = mark(test)
    return test


@dataclass
class Site:
    """The API's handler behind HTTP, under a stage, as API Gateway puts it."""

    api: Api
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)


def answer_from(site: Site, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], str]:
    parts = urlsplit(request.path)
    if parts.path != STAGE and not parts.path.startswith(f"{STAGE}/"):
        return 403, {"Content-Type": "application/json"}, '{"message": "Missing Authentication Token"}'
    path = parts.path.removeprefix(STAGE) or "/"
    site.requests.append((request.command, path))
    event = rest_event(
        request.command,
        path,
        query=parse_qs(parts.query) or None,
        body=request.rfile.read(int(request.headers.get("Content-Length") or 0)).decode() or None,
        headers=dict(request.headers),
    )
    response = site.api(event)
    headers = {name: values[0] for name, values in response["multiValueHeaders"].items()}
    return response["statusCode"], headers, response["body"]


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            status, headers, body = answer_from(site, self)
            self.send_response(status)
            content = body.encode()
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}{STAGE}/"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def new_site(reply: Any = ANSWERS, *, mlkeys: tuple[str, ...] = ("biography",), log: bool = True) -> Site:
    store = ParameterStore({f"{PATH}/{mlkey}": entry(mlkey) for mlkey in mlkeys})
    return Site(Api(Runtime(reply), store, max_age=0, cold_seconds=0, log=Questions(enabled=log)))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def tab(browser: chromium.Browser) -> Iterator[chromium.Page]:
    with browser.page() as opened:
        opened.look()
        yield opened


def open_page(tab: chromium.Page, site: Site, fragment: str = "") -> None:
    tab.open(site.url + fragment)
    tab.wait_for("document.getElementById('model').value")
    if site.api.log.enabled:  # the page asks for its models and whether feedback is taken at the same time
        tab.wait_for("document.getElementById('kept').checkVisibility()")


def ask(tab: chromium.Page, question: str = "WHat is your passion?") -> None:
    tab.tab_to("question")
    tab.value("document.getElementById('question').select()")
    tab.type(question)
    tab.press("Enter")


def wait_for_answer(tab: chromium.Page) -> None:
    tab.wait_for("document.getElementById('facts-and-verdict').checkVisibility()")


@browsing
def test_a_question_asked_with_the_keyboard_is_answered_on_the_page(tab: chromium.Page) -> None:
    with serving(new_site(mlkeys=("biography", "company-handbook"))) as site:
        open_page(tab, site)
        assert "Trained on data/sample" in tab.text_of("model-facts")
        ask(tab)
        wait_for_answer(tab)
        assert tab.text_of("asked") == "WHat is your passion?"
        assert tab.text_of("answer") == "Teaching maths"
        assert tab.text_of("confidence") == "97.3%"
        assert (tab.text_of("mlkey"), tab.text_of("version")) == ("biography", "m-2")
        assert tab.text_of("request-id") == "gateway-request"
        assert re.fullmatch(r"\d+ ms|\d+\.\d\d s", tab.text_of("time"))
        assert not tab.shows("abstained")
        assert site.api.questions == ["WHat is your passion?"]
        # The policy was broken by nothing, and nothing but this API was asked.
        assert tab.console == []
        assert {urlsplit(url).netloc for url in tab.requested if not url.startswith("data:")} == {
            urlsplit(site.url).netloc
        }


@browsing
def test_another_model_can_be_chosen(tab: chromium.Page) -> None:
    with serving(new_site(mlkeys=("biography", "company-handbook"))) as site:
        open_page(tab, site, "#MLKey=company-handbook&question=Who%20pays%3F")
        assert tab.value("document.getElementById('model').value") == "company-handbook"
        tab.tab_to("question")
        tab.press("Enter")
        wait_for_answer(tab)
        assert tab.text_of("mlkey") == "company-handbook"
        assert site.api.runtime.asked[0]["EndpointName"] == "serv-hf-endpoint-company-handbook"
        assert site.api.questions == ["Who pays?"]


@browsing
def test_an_abstention_is_said(tab: chromium.Page) -> None:
    reply = {"answers": [{"answer": "I don't know", "confidence": 0.2, "abstained": True}], "model_version": "m-2"}
    with serving(new_site(reply)) as site:
        open_page(tab, site)
        ask(tab, "What is the capital of Peru?")
        wait_for_answer(tab)
        assert tab.text_of("answer") == "I don't know"
        assert tab.shows("abstained")


@browsing
def test_hostile_texts_stay_texts(tab: chromium.Page) -> None:
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    reply = {"answers": [{"answer": attack}], "model_version": attack}
    with serving(new_site(reply)) as site:
        open_page(tab, site)
        ask(tab, attack)
        wait_for_answer(tab)
        assert [tab.text_of(place) for place in ("asked", "answer", "version")] == [attack] * 3
        assert not tab.shows("confidence-fact")
        assert tab.value("document.title") == "Ask a model"
        assert tab.value("document.querySelectorAll('main img, main script').length") == 0
        assert tab.console == []


@browsing
def test_the_curl_on_the_page_asks_the_same(tab: chromium.Page) -> None:
    with serving(new_site()) as site:
        open_page(tab, site)
        question = 'What\'s "it" & $HOME `id` @file = 100%, Zoë?'
        ask(tab, question)
        wait_for_answer(tab)
        command = shlex.split(tab.text_of("curl").replace("\\\n", " "))
        assert command[:3] == ["curl", "--get", site.url]
        assert command[3:] == ["--data-urlencode", "MLKey=biography", "--data-urlencode", f"question={question}"]
        if shutil.which("curl"):
            done = subprocess.run([*command, "--silent"], capture_output=True, check=True, timeout=30)
            assert json.loads(done.stdout)["answer"] == "Teaching maths"
            assert site.api.questions == [question, question]


@browsing
def test_a_problem_is_shown_with_its_request(tab: chromium.Page) -> None:
    with serving(new_site(aws_error("ModelError"))) as site:
        open_page(tab, site)
        ask(tab)
        tab.wait_for("document.getElementById('error').textContent")
        said = tab.value("document.getElementById('error').innerText")
        assert "The model did not give a usable answer" in said
        assert "gateway-request" in said
        assert not tab.shows("result")
        assert tab.value("document.getElementById('error').getAttribute('role')") == "alert"
        # The next one works without a reload.
        site.api.runtime.reply = ANSWERS
        ask(tab)
        wait_for_answer(tab)
        assert tab.text_of("error") == ""


@browsing
def test_a_busy_model_is_asked_again_by_itself(tab: chromium.Page) -> None:
    with serving(new_site([aws_error("ThrottlingException"), ANSWERS])) as site:
        open_page(tab, site)
        ask(tab)
        tab.wait_for("document.getElementById('countdown').textContent")
        assert "The model is busy" in tab.text_of("answer")
        assert tab.text_of("countdown").startswith("Try 2 of ")
        wait_for_answer(tab)
        assert tab.text_of("answer") == "Teaching maths"
        assert site.requests.count(("POST", "/")) == 2


@browsing
def test_waiting_for_a_cold_model_can_be_stopped(tab: chromium.Page) -> None:
    with serving(new_site(aws_error("ModelNotReadyException"))) as site:
        open_page(tab, site)
        ask(tab)
        tab.wait_for("document.getElementById('countdown').textContent")
        assert "not ready yet" in tab.text_of("answer")
        tab.tab_to("cancel")
        tab.press(" ")
        tab.wait_for("!document.getElementById('result').checkVisibility()")
        assert tab.focused() == "question"
        assert not tab.shows("cancel")
        assert tab.text_of("error") == tab.text_of("countdown") == ""
        site.api.runtime.reply = ANSWERS
        ask(tab)
        wait_for_answer(tab)


@browsing
def test_a_blank_question_is_not_sent(tab: chromium.Page) -> None:
    with serving(new_site()) as site:
        open_page(tab, site)
        ask(tab, "   ")
        tab.wait_for("document.getElementById('error').textContent")
        assert "There is no question" in tab.text_of("error")
        assert tab.focused() == "question"
        assert tab.value("document.getElementById('question').getAttribute('aria-invalid')") == "true"
        assert ("POST", "/") not in site.requests


@browsing
def test_an_api_that_has_gone_and_one_without_models_are_told_apart(tab: chromium.Page) -> None:
    with serving(new_site(mlkeys=())) as site:
        tab.open(site.url)
        tab.wait_for("document.getElementById('model-facts').textContent")
        assert tab.text_of("model-facts") == "No model has been promoted yet."
    with serving(new_site()) as site:
        open_page(tab, site)
    ask(tab)
    tab.wait_for("document.getElementById('error').textContent")
    assert "The API cannot be reached" in tab.text_of("error")


@browsing
def test_a_thumb_up_and_a_correction_are_sent(tab: chromium.Page) -> None:
    with serving(new_site()) as site:
        open_page(tab, site)
        assert "kept to improve the models" in tab.text_of("kept")
        assert tab.shows("kept")
        ask(tab)
        wait_for_answer(tab)
        tab.tab_to("up")
        tab.press(" ")
        tab.wait_for("document.getElementById('verdict-said').textContent === 'Thank you.'")
        tab.tab_to("down")
        tab.press("Enter")
        tab.wait_for("document.activeElement.id === 'right-answer'")
        tab.wait_for("document.getElementById('verdict-said').textContent === 'Thank you.'")
        tab.type("Physics, and her daughters")
        tab.tab_to("comment")
        tab.type("See the letters.")
        tab.press("Enter")
        tab.wait_for("!document.getElementById('correction').checkVisibility()")
        assert tab.focused() == "down"
        about = {"request_id": "gateway-request", "mlkey": "biography"}
        assert site.api.log.verdicts == [
            Feedback(**about, verdict="up"),
            Feedback(**about, verdict="down"),
            Feedback(**about, verdict="down", comment="See the letters.", answer="Physics, and her daughters"),
        ]
        assert tab.console == []


@browsing
def test_without_a_question_log_no_verdict_is_asked_for(tab: chromium.Page) -> None:
    with serving(new_site(log=False)) as site:
        open_page(tab, site)
        ask(tab)
        wait_for_answer(tab)
        assert not tab.shows("verdict")
        assert not tab.shows("kept")


@browsing
def test_the_stage_may_be_opened_without_its_last_slash(tab: chromium.Page) -> None:
    with serving(new_site()) as site:
        tab.open(site.url.rstrip("/"))
        tab.wait_for("document.getElementById('model').value")
        ask(tab)
        wait_for_answer(tab)
        links = tab.value("[...document.querySelectorAll('footer a')].map((link) => link.href)")
        assert links == [site.url + name for name in ("openapi.json", "models", "health")]


# Text and what lies behind it, as the browser paints them (WCAG 2.2, relative luminance and contrast ratio).
CONTRAST = """
(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (colour) => colour.slice(0, 3).map((c) => linear(c / 255))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || ['SCRIPT', 'OPTION'].includes(element.tagName)) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.textContent.slice(0, 40)]);
  }
  return found;
})()
"""


@browsing
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen_and_can_be_read(tab: chromium.Page, width: int, dark: bool, tmp_path: Path) -> None:
    long = "Supercalifragilistic" * 20
    reply = {"answers": [{"answer": long, "confidence": 0.4, "abstained": True}], "model_version": "m" * 64}
    with serving(new_site(reply)) as site:
        tab.look(width=width, dark=dark)
        open_page(tab, site)
        ask(tab, long)
        wait_for_answer(tab)
        tab.tab_to("down")
        tab.press(" ")
        site.api.runtime.reply = aws_error("ModelError")
        tab.wait_for("document.getElementById('correction').checkVisibility()")
        tab.screenshot(tmp_path / "page.png")
        assert tab.value("document.documentElement.scrollWidth") == width
        assert tab.value("matchMedia('(prefers-color-scheme: dark)').matches") is dark
        contrasts = tab.value(CONTRAST)
        assert len(contrasts) > 15
        assert min(contrasts)[0] >= 4.5, min(contrasts)
        tab.value("document.getElementById('question').focus()")
        ask(tab, "Will it fail?")
        tab.wait_for("document.getElementById('error').textContent")
        assert min(tab.value(CONTRAST))[0] >= 4.5, min(tab.value(CONTRAST))
        # Fingers need 24 pixels at least (WCAG 2.2, 2.5.8); here it is 40.
        heights = tab.value(
            "[...document.querySelectorAll('button, select, textarea')]"
            ".filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect().height)"
        )
        assert min(heights) >= 40


@browsing
def test_a_screen_reader_hears_names_and_answers(tab: chromium.Page) -> None:
    with serving(new_site()) as site:
        open_page(tab, site)
        ask(tab)
        wait_for_answer(tab)
        nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
        heard = {
            (node["role"]["value"], node["name"]["value"])
            for node in nodes
            if not node["ignored"] and "name" in node and "role" in node
        }
        assert {
            ("combobox", "Model"),
            ("textbox", "Question"),
            ("button", "Ask"),
            ("button", "Yes"),
            ("button", "No"),
            ("group", "Was this right?"),
            ("region", "Answer"),
            ("heading", "Ask a model"),
            ("link", "OpenAPI description"),
        } <= heard
        assert (
            tab.value("document.getElementById('answer').closest('[aria-live]').getAttribute('aria-live')") == "polite"
        )

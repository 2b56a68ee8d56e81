"""The web page in a real browser, in front of the real HTTP application."""

import ast
import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from chromium import EXECUTABLE, Browser
from PIL import Image
from serving import FakeWorker, digits, digits_service, fake_service, running, until

from fastdiff.errors import Overloaded
from fastdiff.serving.events import Progress
from fastdiff.serving.images import to_pixels
from fastdiff.serving.service import Settings

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no chromium is installed")

CLASS, GENERATE, CANCEL = "#class", "#generate", "#cancel"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture
def worker():
    """Return a worker whose jobs do nothing until the test tells them to."""
    worker = FakeWorker(sample_shape=(1, 8, 8))
    worker.gate.clear()
    return worker


@pytest.fixture
def url(worker):
    with running(fake_service(worker)) as url:
        yield url


@pytest.fixture
def page(browser, url):
    page = browser.open(url)
    page.wait("document.querySelector('#solver').length > 1")
    return page


def fill(page, selector, text):
    page.evaluate(f"document.querySelector('{selector}').select()")
    page.type(text)


def submitted(page, worker):
    """Press the button and return the job that the worker gets."""
    before = len(worker.seen)
    page.evaluate(f"document.querySelector('{GENERATE}').click()")
    until(lambda: len(worker.seen) > before and worker.seen[-1].request is not None)
    return worker.seen[-1]


def shown(page):
    """Return the grey levels of all 8 x 8 images that the page shows, (n, 8, 8)."""
    levels = page.evaluate("""(async () => Promise.all([...document.images].map(async (image) => {
        await image.decode();
        const canvas = new OffscreenCanvas(8, 8).getContext("2d");
        canvas.drawImage(image, 0, 0);
        return [...canvas.getImageData(0, 0, 8, 8).data].filter((_, i) => i % 4 === 0);
    })))()""")
    return np.array(levels).reshape(-1, 8, 8)


def test_digits_are_generated_from_end_to_end(browser):
    with digits_service() as service, running(service) as url:
        page = browser.open(url)
        page.wait("document.querySelector('#solver').length > 1")
        page.evaluate("""window.seen = new Set();
            new MutationObserver(() => { for (const i of document.images) seen.add(i.src) })
            .observe(document.body, { subtree: true, attributeFilter: ["src"] })""")
        for selector, text in {"#class": "3 7", "#steps": "30", "#seed": "11"}.items():
            fill(page, selector, text)
        page.evaluate(f"document.querySelector('{GENERATE}').click()")
        page.wait("document.querySelector('.facts')?.textContent")
        expected = digits().sample(class_labels=[3, 7], steps=30, seed=11)
        error = np.abs(shown(page) - to_pixels(expected)[..., 0].astype(int))
        assert error.max() <= 1  # rows that share a batch may round differently
        assert page.evaluate("window.seen.size") > 4  # it came out of the noise
        fill(page, "#steps", "1000")
        page.evaluate(f"document.querySelector('{GENERATE}').click()")
        page.wait("document.querySelector('progress')?.value > 0")
        assert service.statuses()["digits"].jobs == 1
        page.press("Escape")
        until(lambda: service.statuses()["digits"].jobs == 0)


def test_images_come_out_of_the_noise(page, worker):
    fill(page, CLASS, "7")
    job = submitted(page, worker)
    assert job.request.conditioning["class_labels"].tolist() == [7] * 4
    for step in (10, 40):
        worker.tell_progress(job, step)
        page.wait(f"document.querySelector('.progress').innerText === 'Step {step} of 50'")
        assert (shown(page) == np.full((4, 8, 8), round((step / 50 + 1) * 127.5))).all()
        assert page.evaluate("document.querySelector('progress').value") == step
    assert page.evaluate("document.querySelector('[role=status]').textContent") == "Half done."
    worker.play(job)
    page.wait("document.querySelectorAll('a[download]:not([hidden])').length === 4")
    assert (shown(page) == np.full((4, 8, 8), 128)).all()
    seeds = page.evaluate("[...document.querySelectorAll('figcaption span')].map(e => e.innerText)")
    assert seeds == [f"Seed {seed}" for seed in job.request.seeds]
    assert "0.25 s in the queue" in page.evaluate("document.querySelector('.facts').textContent")
    style = "getComputedStyle(document.images[0]).imageRendering"
    assert page.evaluate(style) == "pixelated"


def test_progress_is_of_all_images_when_they_come_one_after_the_other(page, worker):
    job = submitted(page, worker)
    first = np.array([0])
    job.tell(Progress(48, 50, first, torch.zeros(1, 1, 8, 8)))
    page.wait("document.querySelector('.progress').innerText === 'Step 12 of 50'")
    assert page.evaluate("document.querySelector('progress').value") == 12
    assert page.evaluate(
        "[...document.images].map((image) => getComputedStyle(image).visibility)"
    ) == ["visible", "hidden", "hidden", "hidden"]
    page.press("Escape")
    page.wait("document.querySelector('.facts').textContent === 'Cancelled.'")
    assert len(shown(page)) == 1


def test_page_is_silent_and_speaks_to_its_own_host_alone(page, worker, url):
    worker.play(submitted(page, worker))
    page.wait("document.querySelector('.facts')?.textContent")
    for kind in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
        assert page.events(kind) == []
    asked = {event["request"]["url"] for event in page.events("Network.requestWillBeSent")}
    assert f"{url}/v1/images/generations" in asked
    assert [u for u in asked if not u.startswith((url, "data:image/png;base64,"))] == []


def test_keyboard_alone_reaches_everything_in_order_and_generates(page, worker):
    def focused():
        return page.evaluate("document.activeElement.id || document.activeElement.localName")

    order = []
    for _ in range(9):
        page.press("Tab")
        order.append(focused())
    expected = "model class n steps solver guidance seed generate summary"
    assert order == expected.split()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    for _ in range(5):
        page.press("Tab", shift=True)
    assert focused() == "steps"
    page.type("13")
    page.press("Enter")
    until(lambda: worker.seen and worker.seen[0].request is not None)
    assert worker.seen[0].steps == 13
    page.press("Escape")
    until(lambda: not worker.jobs)


def test_cancel_frees_the_rows_and_gives_the_focus_back(page, worker):
    job = submitted(page, worker)
    worker.tell_progress(job, 20)
    page.wait("document.images.length === 4 && document.images[0].src")
    page.evaluate(f"document.querySelector('{CANCEL}').focus()")
    page.press("Enter")
    until(lambda: job.cancelled and not worker.jobs)
    page.wait("document.querySelector('.facts').textContent === 'Cancelled.'")
    assert page.evaluate("document.activeElement.id") == "generate"
    assert page.evaluate(f"document.querySelector('{CANCEL}').hidden")
    assert len(shown(page)) == 4  # what was seen stays


def test_errors_of_the_server_are_shown_at_their_field(page, worker):
    fill(page, CLASS, "cat")
    page.evaluate(f"document.querySelector('{GENERATE}').click()")
    message = page.wait("document.querySelector('[role=alert]').textContent")
    assert message == "Class: this model draws by class; expected a class label from 0 to 9"
    assert page.evaluate("document.activeElement.id") == "class"
    assert page.evaluate(f"document.querySelector('{CLASS}').ariaInvalid") == "true"
    fill(page, CLASS, "")
    worker.refusal = Overloaded("the queue is full", retry_after=6.2)
    page.evaluate(f"document.querySelector('{GENERATE}').click()")
    page.wait("document.querySelector('[role=alert]').textContent.includes('full')")
    assert "Try again in 7 s." in page.evaluate(
        "document.querySelector('[role=alert]').textContent"
    )
    assert page.evaluate(f"document.querySelector('{CLASS}').ariaInvalid") is None


@pytest.mark.parametrize(
    ("given", "message", "field"),
    [
        ({CLASS: "3 7 cat"}, "Class: this model draws by class; expected a class label", "class"),
        ({CLASS: "3 70"}, "Class: expected a class label from 0 to 9, got 70", "class"),
        ({"#guidance": "101"}, "Guidance: Input should be less than or equal to 100", "guidance"),
    ],
)
def test_errors_speak_in_the_words_of_the_form(page, given, message, field):
    for selector, text in given.items():
        fill(page, selector, text)
    page.evaluate(f"document.querySelector('{GENERATE}').click()")
    page.wait("document.querySelector('[role=alert]').textContent")
    assert page.evaluate("document.querySelector('[role=alert]').textContent").startswith(message)
    assert page.evaluate("document.activeElement.id") == field


def test_several_labels_say_how_many_images_there_are(page, worker):
    def images():
        return page.evaluate("[Number(n.value), n.readOnly]")

    fill(page, "#n", "2")
    fill(page, CLASS, "3 7 7")
    assert images() == [3, True]
    assert submitted(page, worker).rows == 3
    page.press("Escape")
    fill(page, CLASS, "3 7 7 1")
    assert images() == [4, True]
    fill(page, CLASS, "3")
    assert images() == [2, False]


def test_speed_counts_every_images_steps(page, worker):
    status = replace(worker.status(), steps_per_second=10.0, row_steps_per_second=200.4)
    worker.status = lambda: status
    page.wait("document.querySelector('#status').innerText.includes('200 image steps/s')")


def test_stream_that_fails_on_the_way_says_why(page, worker):
    worker.error = ValueError("boom")
    worker.play(submitted(page, worker))
    message = page.wait("document.querySelector('[role=alert]').textContent")
    assert "the engine failed" in message
    assert page.evaluate("document.querySelector('.facts').textContent") == "Failed."


def test_several_classes_and_64_bit_seeds_arrive_exactly(page, worker):
    fill(page, CLASS, "3, 7 7")
    fill(page, "#seed", str(2**64 - 1))
    job = submitted(page, worker)
    assert job.request.conditioning["class_labels"].tolist() == [3, 7, 7]
    assert job.request.seeds.tolist() == [2**64 - 1] * 3
    worker.play(job)
    caption = "[...document.querySelectorAll('figcaption span')].map(e => e.innerText)"
    page.wait("document.querySelector('.facts').textContent")
    numbers = ["", ", image 1", ", image 2"]
    assert page.evaluate(caption) == [f"Seed {2**64 - 1}{number}" for number in numbers]


def test_every_control_has_a_name(page, worker):
    worker.play(submitted(page, worker))
    page.wait("document.querySelectorAll('a[download]:not([hidden])').length === 4")
    page.evaluate("document.querySelector('details').open = true")
    title = "Any: 50 steps of ddim"
    assert page.controls() == [
        ("DisclosureTriangle", "The same from code"),
        ("button", "Copy Python"),
        ("button", "Copy curl"),
        ("button", "Generate"),
        ("combobox", "Model"),
        ("combobox", "Solver"),
        *(("link", f"Download {title}, image {n}") for n in (1, 2, 3, 4)),
        ("spinbutton", "Guidance"),
        ("spinbutton", "Images"),
        ("spinbutton", "Steps"),
        ("textbox", "Class"),
        ("textbox", "Seed"),
    ]
    alts = page.evaluate("[...document.images].map((image) => image.alt)")
    assert alts == [f"{title}, image {n}" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("width", [320, 360])
def test_phone_needs_no_sideways_scrolling(page, worker, width, tmp_path):
    page.resize(width, 640)
    worker.play(submitted(page, worker))
    page.wait("document.querySelectorAll('a[download]:not([hidden])').length === 4")
    page.evaluate("document.querySelector('details').open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    touch = "[...document.querySelectorAll('#generate, input, select')].filter(e => e.offsetParent)"
    assert min(page.evaluate(f"{touch}.map(e => e.offsetHeight)")) >= 44
    page.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.width == width
        assert picture.height > 640  # all of it, not the window alone


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(page, worker, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.call("Emulation.setEmulatedMedia", features=features)
    worker.play(submitted(page, worker))
    page.wait("document.querySelector('.facts')?.textContent")
    page.evaluate("document.querySelector('#error').textContent = 'An error.'")
    page.evaluate("document.querySelector('details').open = true")
    colors = page.evaluate("""(() => {
        const found = {};
        const texts = [...document.querySelectorAll("body *")].filter((e) =>
            e.offsetParent && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
        for (const element of texts) {
            let behind = element;
            const ground = (e) => getComputedStyle(e).backgroundColor;
            while (ground(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
            const pair = [getComputedStyle(element).color, ground(behind)];
            found[pair.join(" on ")] = pair;
        }
        return Object.values(found);
    })()""")
    assert len(colors) >= 6
    assert min(contrast(*pair) for pair in colors) >= 4.5


def contrast(one, other):
    """Return the ratio of WCAG 2.2, "contrast ratio"; colours are ``rgb(r, g, b)``."""

    def luminance(color):
        levels = [int(v) / 255 for v in re.findall(r"\d+", color)[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_code_says_what_the_form_says(page, worker, url):
    fill(page, CLASS, "7")
    fill(page, "#guidance", "2.5")
    fill(page, "#seed", "5")
    curl = shlex.split(page.evaluate("document.querySelector('#curl').textContent"))
    assert curl[:2] == ["curl", f"{url}/v1/images/generations"]
    expected = {"model": "digits", "prompt": "7", "n": 4, "num_inference_steps": 50}
    expected |= {"solver": "ddim", "guidance_scale": 2.5, "seed": 5}
    assert json.loads(curl[curl.index("-d") + 1]) == expected
    program = ast.parse(page.evaluate("document.querySelector('#python').textContent"))
    call = program.body[-1].value
    said = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert {**said.pop("extra_body"), **said} == {**expected, "response_format": "b64_json"}


def test_code_quotes_what_a_shell_would_read(page):
    prompt = 'it\'s $HOME\n"quoted" `ls` \\ é'
    curl = page.evaluate(
        "import('/snippets.js').then((room) => "
        f"room.asCurl('http://h/v1', {{ prompt: {json.dumps(prompt)} }}, true))"
    )
    words = shlex.split(curl)
    assert json.loads(words[-1]) == {"prompt": prompt}
    assert words[-4] == "Authorization: Bearer $FASTDIFF_API_KEY"


def test_key_is_asked_for_where_the_server_wants_one(browser, worker):
    with running(fake_service(worker, Settings(api_keys=("open-sesame",)))) as url:
        page = browser.open(url)
        page.wait("document.querySelector('#key').offsetParent")
        fill(page, "#key", "open-sesame")
        page.wait("document.querySelector('#state').textContent === 'ready'")
        worker.play(submitted(page, worker))
        page.wait("document.querySelector('.facts')?.textContent")
        assert "$FASTDIFF_API_KEY" in page.evaluate("document.querySelector('#curl').textContent")

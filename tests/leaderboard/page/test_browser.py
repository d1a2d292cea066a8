"""The page in a real Chromium: sorting, filtering, tooltips, keyboard, no script, hostile names."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from lsqctl.deploy.folder import read_report, write_folder
from lsqctl.errors import DataError, NotFound
from lsqctl.leaderboard.page.rendering import render
from lsqctl.services.html_page import read_classifier
from lsqctl.text import sanitize
from tests.leaderboard.page.boards import history, hostile_board, large_board, plain_board

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("NO BROWSER: apt-get install chromium, or the page is not tested in one")
    api = pytest.importorskip("playwright.sync_api")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A folder of packed codes of the digits' network, read as the page reads it."""
    torch = pytest.importorskip("torch")
    from lsqctl.deploy import Options, Pixels, convert
    from lsqctl.models.factory import build_model
    from lsqctl.quant import QuantSpec, calibrate, prepare

    torch.manual_seed(0)
    model = build_model("resnet8", num_classes=10, in_channels=1, image_size=8)
    model = prepare(model, QuantSpec(residual_bits=8))
    calibrate(model, [torch.randn(8, 1, 8, 8)])
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    pixels = Pixels((0.3,), (0.4,), 1)
    folder = tmp_path_factory.mktemp("deployed") / "digits"
    convert(model.eval(), folder, [(images, None)], pixels=pixels, options=Options(("codes",)))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, deployed):
    """The pages, written once."""
    place = tmp_path_factory.mktemp("pages")
    runs = [history("r1", "digits/net-w8a8"), history("r2", "second </summary>")]
    for name, text in {
        "plain": render(plain_board(), runs),
        "hostile": render(hostile_board(), [history("r1", "</select><script>alert(1)</script>")]),
        "large": render(large_board()),
        "classifier": render(plain_board(), classifier=read_classifier(deployed)),
        "other": render(plain_board(), classifier=other_logits(read_classifier(deployed))),
    }.items():
        (place / f"{name}.html").write_text(text)
    return place


@pytest.fixture
def opened(browser, folder):
    """Open a page by name; at the end, nothing may have complained or asked for anything."""

    @contextmanager
    def open_page(name: str, *, width: int = 1200, script: bool = True, **options) -> Iterator:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, java_script_enabled=script, **options
        )
        page = context.new_page()
        page.set_default_timeout(10_000)
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        url = (folder / f"{name}.html").as_uri()
        page.goto(url)
        yield page
        context.close()
        assert said == []
        assert [one for one in asked if one != url and not one.startswith("data:")] == []

    return open_page


def column(page, number: int, section: str = "d0") -> list[str]:
    """The texts of a column's visible cells, from the top."""
    return page.eval_on_selector_all(
        f"#{section} tbody tr:not([hidden])",
        f"rows => rows.map(row => row.cells[{number}].textContent.trim())",
    )


def test_a_click_on_a_heading_sorts_and_says_so(opened):
    with opened("plain") as page:
        before = column(page, 1)
        heading = page.locator("#d0 thead th").nth(7)
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == "ascending"
        sizes = column(page, 7)
        assert [float(size) for size in sizes] == [20, 30, 40, 80]
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == "descending"
        assert column(page, 7) == sizes[::-1]
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") is None
        assert column(page, 1) == before


def test_the_filter_narrows_the_tables_and_says_how_many_are_left(opened):
    with opened("plain") as page:
        page.fill("#words", "NET w4a4")
        assert column(page, 1) == ["cifar10/net-w4a4"]
        assert column(page, 1, "d1") == ["digits/net-w4a4"]
        assert page.text_content("#count") == "2 of 10 rows"
        page.fill("#words", "")
        page.select_option("#origin", "p")
        assert column(page, 1, "d1") == ["Published W4A4", "Published W2A2"]
        page.select_option("#bits", "2")
        assert column(page, 1, "d1") == ["Published W2A2"]
        page.reload()
        assert page.text_content("#count") == "1 of 10 rows"  # it outlives a refresh


def test_what_is_filtered_out_is_faint_in_the_charts(opened):
    with opened("plain") as page:
        chart = page.locator("#d0 svg").first
        page.select_option("#bits", "2")
        assert chart.locator(".local .dots:not(.faint)").get_attribute("d").count("M") == 1
        assert chart.locator(".local .faint").get_attribute("d").count("M") == 3


def test_the_pointer_and_the_keyboard_show_what_a_point_is(opened):
    with opened("plain") as page:
        chart = page.locator("#d0 svg").first
        chart.focus()
        page.keyboard.press("Home")
        tip = page.locator("#tip")
        assert "cifar10/net-w2a2" in tip.text_content()
        assert "20.0 kB · 4.00 GBOPs · local runs" in tip.text_content()
        page.keyboard.press("ArrowRight")
        assert "cifar10/net-w3a3" in tip.text_content()
        circle = chart.locator("circle").bounding_box()
        page.keyboard.press("Escape")
        assert not tip.is_visible()
        page.mouse.move(circle["x"] + circle["width"] / 2, circle["y"] + circle["height"] / 2)
        assert "cifar10/net-w3a3" in tip.text_content()
        assert page.locator("#d0 tr.lit").count() == 1


def test_the_keyboard_reaches_everything_and_sorts(opened):
    with opened("plain") as page:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.closest('thead') !== null"):
                break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert page.locator("#d0 thead th[aria-sort]").count() == 1


def test_one_run_is_chosen_and_its_curves_have_numbers(opened):
    with opened("plain") as page:
        assert page.locator("details.run:visible").count() == 1
        page.select_option("#run", "r-r2")
        assert page.locator("#r-r2 svg").first.is_visible()
        assert not page.locator("#r-r1 svg").first.is_visible()
        page.locator("#r-r2 svg").first.focus()
        page.keyboard.press("End")
        assert page.text_content("#tip") == "val\n89.4 at optimizer step 1,000"


def test_the_theme_can_be_switched_and_is_kept(opened):
    with opened("plain", color_scheme="light") as page:
        colour = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(colour)
        page.click("#theme")
        assert page.evaluate(colour) == light
        page.click("#theme")
        dark = page.evaluate(colour)
        assert dark != light
        page.wait_for_timeout(200)  # Chromium stores what a page keeps a moment later
        page.reload()
        assert page.evaluate(colour) == dark


_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const back = light(getComputedStyle(document.body).backgroundColor);
  const texts = 'p, th, td, a, label, h1, h2, h3, figcaption, code, summary, caption, output, '
    + 'footer, svg text, .key';
  const found = {};
  for (const one of document.querySelectorAll(texts)) {
    if (one.closest('#tip, .skip')) continue;
    const style = getComputedStyle(one);
    const mine = light(one.namespaceURI.endsWith('svg') ? style.fill : style.color);
    const ratio = (Math.max(mine, back) + .05) / (Math.min(mine, back) + .05);
    if (ratio < 4.5) found[one.tagName + '.' + one.className] = ratio;
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(opened, scheme):
    with opened("plain", color_scheme=scheme) as page:
        assert page.evaluate(_CONTRAST) == {}


WIDER = [pytest.param(width, marks=pytest.mark.slow) for width in (800, 1600)]


@pytest.mark.parametrize("width", [400, *WIDER])
def test_nothing_is_wider_than_the_window(opened, width):
    for name in ("plain", "hostile", "large"):
        with opened(name, width=width) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            wider = "one => one.scrollWidth > one.clientWidth + 1"
            assert not page.evaluate(f"[...document.querySelectorAll('.scroll')].some({wider})")


_TEXT_SIZES = """[...document.querySelectorAll('svg text')].map(one => {
    const drawing = one.ownerSVGElement, scale = drawing.clientWidth / drawing.viewBox.baseVal.width
    return scale * parseFloat(getComputedStyle(one).fontSize)
}).filter(size => size > 0)"""


@pytest.mark.parametrize("width", [400, 900, 1600])
def test_the_words_of_every_chart_are_about_as_large_as_the_tables(opened, width):
    with opened("plain", width=width) as page:
        sizes = page.evaluate(_TEXT_SIZES)
    assert sizes
    assert min(sizes) >= 10
    assert max(sizes) <= 17


def test_without_script_the_tables_and_charts_are_complete(opened):
    with opened("plain", script=False) as page:
        assert page.locator("#d0 tbody tr").count() == 4
        assert page.locator("#d1 tbody tr").count() == 6
        assert page.locator("#d0 svg .local .dots").first.is_visible()
        assert page.locator("details.run").count() == 2
        assert page.locator("#r-r1 svg").first.is_visible()
        assert not page.locator("#filter").is_visible()
        assert not page.locator("#theme").is_visible()


def test_two_hundred_hostile_names_are_shown_as_text_and_nothing_else(opened):
    wanted = [sanitize(entry.model) for entry in hostile_board().entries]
    assert len(wanted) == 200
    with opened("hostile") as page:
        cells = "[...document.querySelectorAll('#d0 tbody tr')].map(r => r.cells[1].textContent)"
        assert page.evaluate(cells) == wanted
        assert page.locator("script").count() == 2
        assert (
            page.locator("a[href^='javascript' i], a[href^='data' i], [onclick], img").count() == 0
        )
        charts = page.locator("#d0 svg")
        for number in range(charts.count()):
            charts.nth(number).focus()
            page.keyboard.press("Home")
            assert page.locator("#tip").is_visible()
        page.locator("#d0 thead button").nth(1).click()
        assert sorted(page.evaluate(cells)) == sorted(wanted)
        page.fill("#words", "<script>")
        assert 0 < len(column(page, 1)) < 200


def test_a_served_page_refreshes_itself_and_keeps_the_filter(browser, tmp_path, monkeypatch):
    from lsqctl.services import html_page
    from tests.services.test_html_page import finished, serving

    monkeypatch.setattr(html_page, "DATABASE_POLL_SECONDS", 0.0)
    monkeypatch.setattr(html_page, "PAGE_POLL_SECONDS", 0.2)
    database = tmp_path / "lsqctl.db"
    finished(database, "digits/first")
    with serving(database) as server:
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(server.address)
        page.fill("#words", "digits")
        assert page.locator("tbody tr").count() == 1
        finished(database, "digits/second")
        page.locator("tbody tr").nth(1).wait_for(timeout=10_000)
        assert page.input_value("#words") == "digits"
        assert page.text_content("#queue") == "Live: nothing is queued or running."
        assert said == []
        page.close()


def other_logits(classifier):
    """One logit moved by its last bit."""
    logits = classifier.logits.copy()
    logits[3, 2] = np.nextafter(logits[3, 2], np.float32(9))
    return dataclasses.replace(classifier, logits=logits)


def test_the_page_classifies_each_test_image_to_the_last_bit_of_its_logits(opened, deployed):
    expected = read_classifier(deployed).logits
    with opened("classifier") as page:
        assert (
            page.text_content("#classified") == "20 of 20 images: the expected logits, bit for bit"
        )
        answers = []
        for _ in range(3):
            answers.append(page.text_content("#answer"))
            page.click("#after")
        best = expected.argmax(1)
        assert answers == [f"image {i + 1} of 20: class {best[i]}" for i in range(3)]
        shown = page.eval_on_selector_all("#logits li", "items => items.map(i => i.textContent)")
        assert [float(text) for text in shown] == [round(float(x), 3) for x in expected[3]]
        page.click("#before")
        assert page.text_content("#answer").startswith("image 3 of 20")
        page.click("#clear")
        blank = page.text_content("#logits")
        page.click("#pixels")
        assert page.text_content("#answer").startswith("painted: class ")
        assert page.text_content("#logits") != blank


def test_a_logit_that_differs_in_its_last_bit_is_told(opened):
    with opened("other") as page:
        assert page.text_content("#classified").startswith("19 of 20 images")


def test_without_a_script_the_page_says_that_nothing_is_computed(opened):
    with opened("classifier", script=False) as page:
        assert "Without JavaScript" in page.text_content("#classified")
        assert not page.is_visible("#classify")


def test_a_folder_without_codes_or_with_a_changed_byte_is_no_classifier(deployed, tmp_path):
    report = read_report(deployed)
    files = {path.name: path.read_bytes() for path in deployed.iterdir()}
    del files["check.json"], report["sha256"], report["sha256_of_the_rest"]
    write_folder(tmp_path / "none", files, report | {"forms": {}})
    with pytest.raises(
        NotFound, match=r"no packed codes .*`lsqctl deploy RUN -o DIR --form codes`"
    ):
        read_classifier(tmp_path / "none")
    changed = tmp_path / "changed"
    shutil.copytree(deployed, changed)
    data = bytearray((changed / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (changed / "model.safetensors").write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors has changed"):
        read_classifier(changed)

"""The pages that people read, for all who read them: by eye, by ear, by keyboard and on paper."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsers import browser as browser
from conftest import copy_store, forget_store, use_store

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import EvaluateConfig

pytestmark = pytest.mark.slow

OPEN = "document.querySelectorAll('details').forEach(each => each.open = true)"
"""What is folded is read too."""

MOST_PAGES = 5
"""Pages of paper that the report of a table of twenty columns may take."""


@pytest.fixture(scope="module")
def pages(finished_main, tmp_path_factory):
    """Report and evaluation of a small ``main``, drawn, by their names."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, copy_store(finished_main.folder / "mlflow.db", folder), folder)
        pipeline.run_evaluate(EvaluateConfig())
        forget_store()
    return {name: next(folder.rglob(f"{name}.html")) for name in ("report", "evaluation")}


@pytest.fixture
def opened(browser, pages):
    """Open a page as some reader has it."""
    contexts = []

    def open_page(name, width=1280, scheme="light"):
        size = {"width": width, "height": 800}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("light", 768), ("light", 360), ("dark", 1280)]
)
@pytest.mark.parametrize("name", ["report", "evaluation"])
def test_axe_finds_nothing(opened, name, scheme, width):
    """Contrast, headings, names, keys: no violation, whatever the screen and the colours."""
    page = opened(name, width, scheme)
    page.evaluate(OPEN)
    found = Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"][:80] for node in each["nodes"]]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_figures_say_their_finding(opened):
    """The text in the place of a figure has the number that the figure shows."""
    page = opened("report")
    texts = page.locator("figure img").evaluate_all("each => each.map(e => e.alt)")
    assert len(texts) == 8
    assert [text for text in texts if not re.search(r"\d", text)] == []


def test_the_report_on_paper(opened):
    """Few pages; headings stay with what they head, bars and marks keep their colour."""
    page = opened("report")
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= MOST_PAGES
    page.emulate_media(media="print")

    def styles(selector, name):
        style = f"each => each.map(e => getComputedStyle(e).getPropertyValue('{name}'))"
        return set(page.locator(selector).evaluate_all(style))

    assert styles("h1, h2, h3, caption, summary", "break-after") == {"avoid"}
    assert styles("figure, pre, tr", "break-inside") == {"avoid"}
    assert styles(".bar, .key, .answer", "print-color-adjust") == {"exact"}
    assert "rgba(0, 0, 0, 0)" not in styles(".bar", "background-color")

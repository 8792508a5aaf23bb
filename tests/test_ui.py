"""MLflow's own pages, in a browser, tell the story of a run; ``--screenshots`` keeps pictures."""

import json
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from browsers import browser as browser
from playwright.sync_api import expect
from served import mlflow_server

pytestmark = pytest.mark.slow

expect.set_options(timeout=20_000)

SETTINGS = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    'MLflowLocalStorage-1.1-ExperimentPage-["1"]-ReactComponentState': json.dumps(
        {
            "orderByKey": "attributes.start_time",
            "orderByAsc": False,
            "selectedColumns": [
                "attributes.`Models`",
                "metrics.`ensemble_test_accuracy`",
                "metrics.`test_accuracy`",
                "params.`kd.alpha`",
            ],
        }
    ),
}
"""What the UI keeps in the browser: model training's menu, no assistant, columns once chosen."""


DISTILL = "distill kd-student best, synthetic"

SHORTEN = """folder => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode())
        texts.currentNode.data = texts.currentNode.data.replaceAll(folder, ".");
}"""
"""Writes the folder of the tests' store as ``.``, for pictures."""


@pytest.fixture(scope="module")
def address(finished_main, tmp_path_factory):
    """A server of the shared finished ``main``."""
    with mlflow_server(finished_main.uri, tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def opened(browser):
    """Open a page in a browser that remembers nothing but MLflow's scripts, compiled."""
    context = browser.new_context()

    @contextmanager
    def open_page(width):
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 800})
        page.set_default_timeout(20_000)
        yield page
        page.evaluate("localStorage.clear()")
        page.close()

    yield open_page
    context.close()


@pytest.fixture
def page(opened, finished_main, request, pytestconfig):
    """A page 1,280 pixels wide; if pictures are asked for, of its last state, named as the test."""
    with opened(1280) as page:
        page.add_init_script(
            "".join(f"localStorage.setItem({k!r}, {v!r});" for k, v in SETTINGS.items())
        )
        yield page
        if folder := pytestconfig.getoption("screenshots"):
            folder.mkdir(parents=True, exist_ok=True)
            page.mouse.move(640, 790)
            page.wait_for_timeout(1500)
            page.evaluate(SHORTEN, str(finished_main.folder))
            page.screenshot(path=folder / f"{request.node.name.removeprefix('test_')}.png")


@pytest.fixture
def wide(opened):
    """A page with room for a table's columns."""
    with opened(1900) as page:
        yield page


@pytest.fixture
def runs(finished_main):
    """The shared main's runs by kind."""
    found = finished_main.client.search_runs(["1"], max_results=100)
    return {run.data.tags["kd.kind"]: run.info for run in found}


def expand(page, name):
    """Open a row of the run list."""
    link = page.get_by_role("link", name=name, exact=True)
    page.get_by_role("gridcell").filter(has=link).get_by_role("button").first.click()


def test_run_list(page, address):
    """The pipeline opens to its steps, and the distillation to students and baselines."""
    page.goto(f"{address}/#/experiments/1/runs")
    expand(page, "pipeline kd-student best, synthetic")
    for name in ("teachers best, synthetic", DISTILL, "promotion v1"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    expand(page, DISTILL)
    for name in ("student-01", "baseline-01"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    expect(page.get_by_text("ensemble_test_accuracy")).to_be_visible()


def test_curves(page, address, runs):
    """Students and baselines of one comparison share a chart a curve."""
    below = f"tags.`mlflow.parentRunId` = '{runs['distill'].run_id}'"
    mine = quote(f"{below} AND tags.`kd.kind` != 'strong_baseline'")
    page.goto(f"{address}/#/experiments/1/runs?searchFilter={mine}&compareRunsMode=CHART")
    expand(page, DISTILL)
    page.get_by_placeholder("Search metric charts").fill("^val_")
    for curve in ("val_accuracy", "val_agreement", "val_loss"):
        expect(page.get_by_text(curve, exact=True).first).to_be_visible()
    expect(page.locator(".js-plotly-plot .scatterlayer .trace").nth(3)).to_be_attached()
    for name in ("student-02", "baseline-02"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()


def test_model(page, address):
    """The version in production carries its alias and the model card."""
    page.goto(f"{address}/#/models/kd-student")
    expect(page.get_by_text("production").first).to_be_visible()
    page.goto(f"{address}/#/models/kd-student/versions/1")
    expect(page.get_by_text("@ production")).to_be_visible()
    for words in ("Verdict.", "Intended use.", "What to send.", "Limits.", "Load it."):
        expect(page.get_by_text(words, exact=True)).to_be_attached()
    expect(page.get_by_role("cell", name="feature_00", exact=True)).to_be_attached()


def test_report(page, address, runs):
    """``report.html`` is rendered, with its pictures."""
    run_id = runs["distill"].run_id
    page.goto(f"{address}/#/experiments/1/runs/{run_id}/artifacts/report.html")
    report = page.frame_locator("iframe")
    expect(report.get_by_role("heading", level=1)).to_contain_text("kd-student")
    width = report.locator("img").first.evaluate("image => image.naturalWidth")
    assert width > 500
    sent = report.get_by_role("table").filter(has_text="training rows had")
    expect(sent.get_by_role("rowheader", name="feature_19", exact=True)).to_be_visible()


def test_report_unfolds(page, address, runs):
    """What stands behind a title is hidden until it is clicked, without a script."""
    run_id = runs["distill"].run_id
    page.goto(f"{address}/#/experiments/1/runs/{run_id}/artifacts/report.html")
    report = page.frame_locator("iframe")
    curves = report.get_by_alt_text("ROC and precision-recall curves", exact=False)
    expect(curves).to_be_attached()
    expect(curves).to_be_hidden()
    report.get_by_role("heading", name="How does it decide between two classes?").click()
    expect(curves).to_be_visible()
    expect(report.get_by_role("row").filter(has_text="in use")).to_be_visible()


def test_report_narrow(page, address, runs, finished_main, tmp_path):
    """On a phone the first table fits; other tables and pictures may be wider, and scroll."""
    path = finished_main.client.download_artifacts(runs["distill"].run_id, "report.html", tmp_path)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"file://{path}")
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    widths = page.locator("table").evaluate_all(
        "tables => tables.map(table => table.parentElement.scrollWidth)"
    )
    assert widths[0] < 390 < max(widths)
    page.get_by_role("heading", name="What a caller must send").scroll_into_view_if_needed()


def test_figure(page, address, runs):
    """A figure of the comparison is shown as a picture."""
    run_id = runs["distill"].run_id
    page.goto(f"{address}/#/experiments/1/runs/{run_id}/artifacts/figures/ladder.png")
    picture = page.locator("img[src^=blob], img[src*=artifact]").first
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 500


def test_the_link_that_main_ends_with(browser, address, finished_main):
    """Somebody's first visit shows the report at once, in the menu of training."""
    link = finished_main.result.distill.page.address
    own = browser.new_context().new_page()
    own.goto(f"{address}/{link[link.index('#') :]}")
    shown = own.frame_locator("iframe").get_by_role("heading", level=1)
    expect(shown).to_contain_text("kd-student")
    expect(own.get_by_text("Model training").first).to_be_visible()
    expect(own.get_by_text("Model metrics")).to_be_visible()
    own.context.close()


def test_the_list_of_pipelines_opens_with_their_metrics(wide, address, finished_main):
    """The saved view whose link ``main`` prints has each pipeline with its decision and metrics."""
    link = finished_main.result.distill.page.runs
    wide.goto(f"{address}/{link[link.index('#') :]}")
    expect(wide.get_by_role("link", name="pipeline kd-student best, synthetic")).to_be_visible()
    expect(wide.get_by_text("kd.decision").first).to_be_visible()
    expect(wide.get_by_text("registered_test_accuracy").first).to_be_visible()


def test_the_list_of_models_opens_with_their_metrics(wide, address, finished_main):
    """The saved view whose link ``main`` prints has students and baselines, of one run alone."""
    result = finished_main.result.distill
    link = result.page.models
    wide.goto(f"{address}/{link[link.index('#') :]}")
    for name in ("student-01", "baseline-02", "strong-01"):
        expect(wide.get_by_role("link", name=name, exact=True)).to_be_visible()
    for name in ("kd.kind", "kd.registered", "test_log_loss", "test_accuracy", "parameters"):
        expect(wide.get_by_text(name, exact=True).first).to_be_visible()
    expect(wide.get_by_role("link", name="teacher-01")).to_have_count(0)


def test_run_page(page, address, runs):
    """The comparison's page has its data set, tags and a description with a table."""
    page.goto(f"{address}/#/experiments/1/runs/{runs['distill'].run_id}")
    expect(page.get_by_text("kd.kind")).to_be_visible()
    expect(page.get_by_text("synthetic (").first).to_be_visible()
    expect(page.get_by_text("students distilled on").first).to_be_attached()


def test_logged_model(page, address, finished_main):
    """The student's own page among logged models lists its test figures and its data set."""
    (model,) = finished_main.client.search_logged_models(["1"], "name = 'student'")
    page.goto(f"{address}/#/experiments/1/models/{model.model_id}")
    expect(page.get_by_text("registered_test_accuracy").first).to_be_visible()
    expect(page.get_by_text("synthetic (").first).to_be_visible()

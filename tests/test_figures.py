"""Figures: what is drawn is what was given, and a reader can read it."""

import itertools
from io import BytesIO
from threading import Thread

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import imread
from scipy.stats import binomtest

from kd_mlflow.evaluation import intervals
from kd_mlflow.evaluation import metrics as confidence_bins
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.metrics import expected_calibration_error
from kd_mlflow.figures import accuracy, probabilities, style, training_curves
from kd_mlflow.figures.probabilities import Calibration
from kd_mlflow.figures.style import LOOKS

rng = np.random.default_rng(0)
GAIN = Interval(value=0.01, low=0.002, high=0.02)
TIE = Interval(value=0.001, low=-0.004, high=0.006)
UNKIND = ["<script>", "a$b$c", "長い名前", "x" * 80, "two\nlines", "", "_^{}\\"]
"""Class names that a table may have and a picture has no room for."""


def answers(n, classes, seed=0):
    """Labels, and probabilities that are right more often than not."""
    own = np.random.default_rng(seed)
    labels = own.integers(classes, size=n)
    logits = own.normal(size=(n, classes)) + 2.5 * np.eye(classes)[labels]
    shares = np.exp(logits)
    return labels, shares / shares.sum(axis=1, keepdims=True)


def history(epochs, k, names=training_curves.CURVES):
    """Curves of ``k`` models."""
    return {name: rng.uniform(0.5, 1, size=(epochs, k)) for name in names}


def curves_of_teachers(epochs=6, k=3):
    """Teachers' curves as a figure."""
    return training_curves.teacher_curves(
        {"networks": history(epochs, k)}, ensemble={"val_accuracy": 0.9, "val_loss": 0.3}, rows=400
    )


def curves_of_students(epochs=6, seeds=3):
    """Students' curves as a figure."""
    return training_curves.student_curves(
        {kind: history(epochs, seeds) for kind in ("baseline", "distilled")},
        ensemble={"val_accuracy": 0.9, "val_loss": 0.3},
        rows=400,
    )


def ladder():
    """A ladder of four steps and two differences."""
    return accuracy.ladder(
        {
            "baseline": [0.9, 0.91, 0.9],
            "strong_baseline": [0.93, 0.94, 0.95],
            "distilled": [0.96, 0.97, 0.96],
            "ensemble": [0.965],
        },
        {"distilled - strong baseline": GAIN, "distilled - ensemble": TIE},
        rows=1000,
    )


def sizes():
    """Accuracy against parameters, students of two kinds of one size."""
    return accuracy.sizes(
        {
            "baseline": (3490, [0.9, 0.91]),
            "distilled": (3490, [0.96, 0.97]),
            "teacher": (46_658, [0.95, 0.96, 0.97]),
            "ensemble": (139_974, [0.975]),
        },
        rows=1000,
        seeds=2,
    )


def reliability(classes=2, n=200):
    """Two models' reliability probabilities."""
    labels, shares = answers(n, classes)
    bins = confidence_bins.reliability(shares.max(axis=1), shares.argmax(axis=1) == labels)
    models = [Calibration("ensemble", "ensemble", bins, 0.1), Calibration("baseline", "b", bins, 0)]
    return probabilities.reliability_diagram(models, classes=classes, rows=n)


def confusions(classes=2, n=300, names=None):
    """Two models' confusions."""
    labels, shares = answers(n, classes)
    counts = confidence_bins.confusion(labels, shares.argmax(axis=1), classes)
    names = style.class_names(tuple(names or range(classes)))
    return probabilities.confusion_matrices(
        {"ensemble": counts, "registered student": counts.T}, names
    )


def temperature(classes=2, n=50, names=None, chosen=3.0):
    """Soft targets at several temperatures."""
    _, shares = answers(n, classes)
    by_temperature = {}
    for t in sorted({1.0, 3.0, 10.0, chosen}):
        soft = shares ** (1 / t)
        by_temperature[t] = soft / soft.sum(axis=1, keepdims=True)
    names = style.class_names(tuple(names or range(classes)))
    return probabilities.temperature_effect(by_temperature, names, chosen=chosen)


def agreement(classes=2, n=200, seeds=3):
    """Three kinds of students' agreement."""
    _, shares = answers(n, classes)
    students = [rng.integers(classes, size=(seeds, n)) for _ in range(3)]
    bins = confidence_bins.agreement_by_confidence(shares, students, shares.argmax(axis=1))
    return probabilities.agreement_diagram(
        ["baseline", "strong_baseline", "distilled"], bins, rows=n, seeds=seeds
    )


EVERY = {
    make.__name__: make
    for make in (
        curves_of_teachers,
        curves_of_students,
        ladder,
        sizes,
        reliability,
        confusions,
        temperature,
        agreement,
    )
}


def ticks(axis):
    """Labels of the ticks within an axis's range."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def written(figure):
    """Texts that a reader sees, with the boxes that they cover once the figure is drawn."""
    FigureCanvasAgg(figure).draw()
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.texts)]
    for axes in figure.axes:
        titles = axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label
        texts += [*axes.texts, *titles, *ticks(axes.xaxis), *ticks(axes.yaxis)]
        if axes.get_legend():
            texts += axes.get_legend().texts
    seen = [text for text in texts if text.get_text().strip() and text.get_visible()]
    return [(text.get_text(), text.get_window_extent()) for text in seen]


def assert_legible(figure):
    """No text covers another or leaves the picture.  What is written."""
    boxes = written(figure)
    assert boxes
    for text, box in boxes:
        assert (text, box.x0 >= -1, box.x1 <= figure.bbox.x1 + 1) == (text, True, True)
        assert (text, box.y0 >= -1, box.y1 <= figure.bbox.y1 + 1) == (text, True, True)
    for (first, a), (second, b) in itertools.combinations(boxes, 2):
        overlap = a.x0 + 1 < b.x1 and b.x0 + 1 < a.x1 and a.y0 + 1 < b.y1 and b.y0 + 1 < a.y1
        assert not overlap, (first, second)
    return boxes


def lines(axes, label):
    """The lines of an axes that a legend calls so."""
    return [line for line in axes.lines if str(line.get_label()).startswith(label)]


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_every_axis_says_what_it_shows_and_no_text_covers_another(name):
    """Axes are labelled in their units, the rows are counted, and all texts stand apart."""
    figure = EVERY[name]()
    labels = [each.get_ylabel() for each in figure.axes] + [e.get_xlabel() for e in figure.axes]
    units = ("%", "nats", "parameters", "rows", "class", "epoch", "points", "temperature")
    assert len([label for label in labels if any(unit in label for unit in units)]) >= 2
    assert any("rows" in text for text, _ in assert_legible(figure))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_figure_for_a_phone_is_legible(name):
    """In half the width nothing is cut off and no text covers another, in no smaller type."""
    figure = EVERY[name]()
    drawn = style.picture(figure)
    assert figure.get_figwidth() == style.NARROW_IN
    assert_legible(figure)
    assert len(drawn.narrow) < 1.2 * len(drawn.wide)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_picture_has_the_figures_colours(name):
    """Fewer colours are in it, none of them seen to be another: kinds of model keep theirs."""
    canvas = FigureCanvasAgg(figure := EVERY[name]())
    canvas.draw()
    figure.set_layout_engine("none")  # it would move axes by a pixel the next time
    drawn = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    kept = imread(BytesIO(style.png(figure)))[..., :3]
    assert np.abs(drawn - kept).max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "classes"),
    [
        *((confusions, classes) for classes in (3, 10, 20, 21, 50)),
        *((temperature, classes) for classes in (3, 10, 50)),
        *((make, 50) for make in (reliability, agreement)),
    ],
)
def test_figures_stay_legible_with_many_classes(make, classes):
    """Up to fifty classes no text covers another."""
    assert_legible(make(classes=classes, n=600))


@pytest.mark.slow
@pytest.mark.parametrize("make", [confusions, temperature])
def test_unkind_class_names_stay_legible(make):
    """Names too long, of two lines, with dollars or without a glyph are drawn without a warning."""
    assert_legible(make(classes=len(UNKIND), names=UNKIND))


def test_class_names_fit_an_axis():
    """Names are one short line each; those that the font cannot write are numbered."""
    names = style.class_names(tuple(UNKIND))
    assert names[:3] == ["<script>", "a$b$c", "class 2"]
    assert names[4:6] == ["two lines", "class 5"]
    assert max(map(len, names)) == style.NAME_LENGTH


def test_teacher_curves_are_the_given_ones():
    """One line a teacher, in percent and nats, and the ensemble's level in both."""
    given = history(5, 3)
    figure = training_curves.teacher_curves(
        {"networks": given}, ensemble={"val_accuracy": 0.9, "val_loss": 0.3}, rows=40
    )
    for axes, name, scale in zip(figure.axes, ("val_accuracy", "val_loss"), (100, 1), strict=True):
        *own, level = axes.lines
        np.testing.assert_allclose(
            np.stack([line.get_ydata() for line in own], 1) / scale, given[name]
        )
        assert {line.get_xdata()[0] for line in own} == {1}
        assert level.get_ydata()[0] == pytest.approx(scale * {"val_accuracy": 0.9}.get(name, 0.3))


def test_student_curves_are_means_with_the_seeds_range():
    """A line is the mean over seeds; its band reaches from the lowest to the highest seed."""
    given = {"baseline": history(5, 4), "distilled": history(5, 4)}
    figure = training_curves.student_curves(given, ensemble={}, rows=40)
    for axes, (name, (_, scale)) in zip(figure.axes, training_curves.CURVES.items(), strict=True):
        for band, kind in zip(axes.collections, given, strict=True):
            (line,) = lines(axes, LOOKS[kind].name)
            values = scale * given[kind][name]
            np.testing.assert_allclose(line.get_ydata(), values.mean(axis=1))
            corners = band.get_paths()[0].vertices
            for epoch in range(1, 6):
                at = corners[corners[:, 0] == epoch, 1]
                row = values[epoch - 1]
                assert (at.min(), at.max()) == pytest.approx((row.min(), row.max()))


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_curves_with_gaps_are_drawn(bad, everywhere):
    """Values that are no finite number leave a gap and no warning, were it the whole curve."""
    given = history(6, 3)
    for values in given.values():
        values[:] = np.where(everywhere | (np.arange(6) == 2)[:, None], bad, values)
    level = {"val_accuracy": 0.9, "val_loss": 0.3}
    for figure in (
        training_curves.teacher_curves({"networks": given}, ensemble=level, rows=9),
        training_curves.student_curves(
            {"distilled": given, "baseline": history(6, 3)}, ensemble=level, rows=9
        ),
    ):
        assert np.isfinite([each.get_ylim() for each in figure.axes]).all()
        assert style.png(figure)


def test_one_epoch_of_one_model_is_a_visible_point():
    """Where a line has no length there is a marker."""
    for figure in (curves_of_teachers(1, 1), curves_of_students(1, 1)):
        for axes in figure.axes:
            own = [line for line in axes.lines if line.get_linestyle() != "--"]
            assert {line.get_marker() for line in own} <= {"x", "s", "o"}


def test_ladder_shows_means_seeds_and_both_errors():
    """A step has its mean, each seed, the seeds' standard error and the rows' 95 % interval."""
    values = np.array([0.90, 0.92, 0.97])
    figure = accuracy.ladder({"distilled": values, "ensemble": [1.0]}, {"gain": GAIN}, rows=36)
    steps = figure.axes[0]
    shown = [(line.get_xdata() / 100, line.get_linewidth()) for line in steps.lines]
    (thin, _), (thick, _), (seeds, _), (mean, _) = shown[:4]
    error = values.std(ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(thin, intervals.wilson(values.mean(), 36))
    np.testing.assert_allclose(thick, [values.mean() - error, values.mean() + error])
    np.testing.assert_allclose(np.sort(seeds), values)
    np.testing.assert_allclose(mean, values.mean())
    assert shown[0][1] < shown[1][1]
    assert "± 2.08" in steps.texts[0].get_text()


def test_ladder_greys_what_is_within_the_noise():
    """A difference whose interval holds 0 has no colour; its bounds stand beside it."""
    gains = ladder().axes[1]
    decided, tied = (line for line in gains.lines if len(line.get_xdata()) == 1)
    assert to_hex(decided.get_color()).upper() == LOOKS["distilled"].colour
    assert to_hex(tied.get_color()).upper() == style.GREY
    assert gains.texts[1].get_text() == "+0.10 (-0.40 to +0.60)"
    bounds = [line.get_xdata() for line in gains.lines if line.get_ydata()[0] == 1]
    assert list(bounds[0]) == [-0.4, 0.6]


def test_sizes_stand_at_their_parameters():
    """Each model is at its parameters and accuracy, kinds of one size at one place."""
    (axes,) = sizes().axes
    for kind, parameters, shares in (
        ("baseline", 3490, [90, 91]),
        ("teacher", 46_658, [95, 96, 97]),
        ("ensemble", 139_974, [97.5]),
    ):
        (line,) = lines(axes, LOOKS[kind].name)
        assert set(line.get_xdata()) == {parameters}
        assert line.get_transform() == axes.transData
        np.testing.assert_allclose(line.get_ydata(), shares)
    low, high = axes.get_ylim()
    assert low < 90 < 97.5 < high


@pytest.mark.parametrize("classes", [2, 10])
def test_reliability_bins_are_the_eces(classes):
    """The bins' surplus of confidence, weighted by their rows, is the ECE that is logged."""
    labels, shares = answers(500, classes)
    predicted = shares.argmax(axis=1)
    bins = confidence_bins.reliability(shares.max(axis=1), predicted == labels)
    ece = (np.abs(bins.confidence - bins.shares[0]) * bins.rows).sum() / bins.rows.sum()
    assert ece == pytest.approx(expected_calibration_error(shares, labels, predicted))
    figure = probabilities.reliability_diagram(
        [Calibration("ensemble", "e", bins, ece)], classes=classes, rows=500
    )
    upper, lower = figure.axes
    marks = [line for line in upper.lines if line.get_marker() == LOOKS["ensemble"].marker]
    shown = np.concatenate([line.get_ydata() for line in marks])
    np.testing.assert_allclose(np.sort(shown), np.sort(100 * bins.shares[0]))
    assert [bar.get_height() for bar in lower.patches] == list(bins.rows)


def test_confusion_counts_every_row_once():
    """A cell's number is how many rows of its true class got its predicted class."""
    labels, shares = answers(300, 4)
    predicted = shares.argmax(axis=1)
    counts = confidence_bins.confusion(labels, predicted, 4)
    for i, j in itertools.product(range(4), range(4)):
        assert counts[i, j] == ((labels == i) & (predicted == j)).sum()
    figure = probabilities.confusion_matrices({"ensemble": counts}, list("abcd"))
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert cells == {(j, i): str(counts[i, j]) for i, j in zip(*np.nonzero(counts), strict=True)}


def test_many_classes_are_summarised():
    """Above twenty classes the most frequent confusions are listed, worst first."""
    counts = np.diag(np.full(30, 9))
    counts[3, 7], counts[8, 1], counts[2, 0] = 5, 4, 1
    figure = probabilities.confusion_matrices(
        {"ensemble": counts, "student": counts}, list(map(str, range(30)))
    )
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "3 taken for 7",
        "8 taken for 1",
        "2 taken for 0",
    ]
    assert [bar.get_width() for bar in axes.patches] == [5, 4, 1] * 2


def test_a_table_without_errors_is_drawn():
    """No confusion at all, of two classes or of many, is a figure and no error."""
    for classes in (2, 30):
        counts = np.diag(np.full(classes, 3))
        names = style.class_names(tuple(range(classes)))
        assert style.png(probabilities.confusion_matrices({"ensemble": counts, "s": counts}, names))


def test_temperature_spreads_are_the_given_soft_targets():
    """The median at each temperature is that of the rows' highest soft target."""
    shares = {t: np.tile([[p, 1 - p]], (9, 1)) for t, p in ((1.0, 0.9), (3.0, 0.7), (10.0, 0.6))}
    figure = probabilities.temperature_effect(shares, ["no", "yes"], chosen=3.0)
    spread, example = figure.axes
    (medians,) = [line for line in spread.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(medians.get_ydata(), [90, 70, 60])
    heights = [bar.get_height() for bar in example.patches]
    np.testing.assert_allclose(heights, [90, 10, 70, 30, 60, 40])


@pytest.mark.parametrize("chosen", [0.5, 1.0, 4.0, 50.0])
def test_any_temperature_has_its_place(chosen):
    """The temperature in use stands among the others, whatever it is."""
    figure = temperature(chosen=chosen)
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert f"{chosen:g}" in ticks
    assert_legible(figure)


def test_agreement_is_a_mean_over_rows_and_seeds():
    """Over all bins, weighted by rows, agreement is the share of equal answers."""
    _, shares = answers(150, 3)
    students, classes = rng.integers(3, size=(4, 150)), shares.argmax(axis=1)
    bins = confidence_bins.agreement_by_confidence(shares, [students], classes)
    whole = (bins.shares[0] * bins.rows).sum() / 150
    assert whole == pytest.approx((students == classes).mean())
    figure = probabilities.agreement_diagram(["distilled"], bins, rows=150, seeds=4)
    (line,) = lines(figure.axes[0], LOOKS["distilled"].name)
    np.testing.assert_allclose(line.get_ydata(), 100 * bins.shares[0])
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == 150


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_wilson_bounds_hold_the_share(share):
    """The interval holds its share, stays within 0 and 1, and narrows with rows."""
    few, many = intervals.wilson(share, 20), intervals.wilson(share, 2000)
    for low, high in (few, many):
        assert 0 <= low <= share <= high <= 1
    assert 0 < many[1] - many[0] < few[1] - few[0]


def test_wilson_is_wilsons():
    """The interval is the one of scipy's binomial test."""
    theirs = binomtest(97, 100).proportion_ci(method="wilson")
    assert intervals.wilson(0.97, 100) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_kinds_have_colours_of_their_own():
    """No two kinds share a colour or a marker, nor are told apart by hue alone."""
    looks = list(LOOKS.values())
    assert (
        len({look.colour for look in looks}) == len({look.marker for look in looks}) == len(looks)
    )
    light = [np.dot(to_rgb(look.colour), (0.2126, 0.7152, 0.0722)) for look in looks]
    assert len({round(value, 2) for value in light}) == len(looks)


@pytest.mark.slow
def test_equal_figures_are_equal_bytes_from_any_thread():
    """Drawing changes nothing global: threads that draw at once draw what one would."""
    pictures = []
    threads = [Thread(target=lambda: pictures.append(style.png(sizes()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(pictures) == {style.png(sizes())}

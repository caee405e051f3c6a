"""Tests of figures: their content and legibility."""

import io
import itertools
import warnings

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.backends import backend_agg

import keras_meta as km
from keras_meta import plot_colours, plot_text, plots


def task(ways, shots, queries):
    """Returns support set and queries of blank images, and random probabilities."""
    random = np.random.default_rng(0)
    shots = np.broadcast_to(shots, ways)
    support_y = random.permutation(np.repeat(range(ways), shots))
    query_y = random.permutation(np.repeat(range(ways), queries))
    probabilities = random.dirichlet(np.full(ways, 0.3), len(query_y))
    support_x = np.full([len(support_y), 28, 28, 1], 0.5, np.float32)
    query_x = np.full([len(query_y), 28, 28, 1], 0.5, np.float32)
    return support_x, support_y, query_x, probabilities, query_y


def texts(figure):
    return [text for axes in figure.axes for text in axes.texts]


def assert_legible(figure):
    """Asserts that all texts are inside the figure and that none overlap."""
    renderer = backend_agg.FigureCanvasAgg(figure).get_renderer()
    draw_text, drawn_texts = renderer.draw_text, []

    def record(*args, mtext=None, **kwargs):
        drawn_texts.append(mtext)
        return draw_text(*args, mtext=mtext, **kwargs)

    renderer.draw_text = record
    figure.draw(renderer)
    assert drawn_texts
    boxes = [text.get_window_extent(renderer) for text in drawn_texts]
    width, height = figure.bbox.size
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    for (box_a, text_a), (box_b, text_b) in itertools.combinations(
        zip(boxes, drawn_texts, strict=True), 2
    ):
        assert not box_a.overlaps(box_b), (text_a.get_text(), text_b.get_text())


@pytest.mark.parametrize(
    ("ways", "shots", "queries", "known"),
    [
        (2, 1, 1, False),
        (5, 1, 15, True),
        (20, 1, 2, True),
        (20, 1, 4, True),
        (4, [1, 9, 2, 3], 4, False),
    ],
)
def test_predictions_are_legible(ways, shots, queries, known):
    *arrays, query_y = task(ways, shots, queries)
    names = [
        "WWWWWWWWWWWWWWWW",
        "a$b_1$",
        "x",
        "a name of more than forty letters " * 2,
    ]
    names = (names + [f"class {i}" for i in range(4, ways)])[:ways]
    figure = plots.predictions(*arrays, names, query_y if known else None)
    assert_legible(figure)
    # The figure has all queries, and at most six support examples of a class.
    expected_images = np.minimum(np.broadcast_to(shots, ways), 6).sum() + ways * queries
    assert len(figure.axes[0].images) == expected_images
    left, right, top, bottom = np.transpose(
        [image.get_extent() for image in figure.axes[0].images]
    )[[0, 1, 3, 2]]
    inches = figure.get_size_inches()
    assert left.min() >= 0 and right.max() <= inches[0]
    assert top.min() >= 0 and bottom.max() <= inches[1]


def test_predictions_mark_correct_and_wrong_queries():
    *arrays, _ = task(3, 1, 2)
    probabilities = np.array([[7, 2, 1]] * 3 + [[1, 2, 7]] * 3) / 10
    query_y = [0, 0, 1, 1, 2, 2]
    figure = plots.predictions(*arrays[:3], probabilities, "abc", query_y)
    marks = [t.get_text() for t in texts(figure) if t.get_text()[0] in "✓✗"]
    assert marks == ["✓ a", "✓ a", "✗ a", "✗ c", "✓ c", "✓ c"]
    assert "Predictions: 4 of 6 right" in [t.get_text() for t in texts(figure)]
    frames = [
        matplotlib.colors.to_hex(p.get_edgecolor()) for p in figure.axes[0].patches
    ]
    right, wrong = plot_colours.RIGHT, plot_colours.WRONG
    assert frames[3:] == [right, right, wrong, wrong, right, right]
    upright = [t.get_text() for t in texts(figure) if t.get_rotation() == 90]
    assert upright == ["a", "b", "c"]


def test_predictions_mark_queries_of_no_class():
    *arrays, query_y = task(3, 1, 2)
    unknown = [False, True, False, False, False, True]
    figure = plots.predictions(*arrays[:4], "abc", query_y, unknown)
    captions = [t.get_text() for t in texts(figure)]
    assert captions.count("unknown") == 2
    assert sum(caption[0] in "✓✗" for caption in captions if caption) == 4
    frames = [
        matplotlib.colors.to_hex(p.get_edgecolor()) for p in figure.axes[0].patches
    ]
    grey = matplotlib.colors.to_hex(plot_colours.GREY)
    by_class = np.array(unknown)[np.argsort(query_y, kind="stable")]
    assert [frame == grey for frame in frames[3:]] == by_class.tolist()
    assert_legible(figure)
    with pytest.raises(ValueError, match=r"expected unknown \[6\], got \[2\]"):
        plots.predictions(*arrays[:4], "abc", query_y, unknown[:2])


def test_predictions_group_the_queries_of_a_class_in_a_row():
    *arrays, query_y = task(4, 2, 3)
    arrays[2] = query_y[:, None, None, None] / 4 + np.zeros([12, 5, 5, 1])
    figure = plots.predictions(*arrays, None, query_y)
    queries = figure.axes[0].images[8:]
    rows = {}
    for image in queries:
        rows.setdefault(image.get_extent()[3], set()).add(image.get_array()[0, 0])
    assert [rows[top] for top in sorted(rows)] == [{0.0}, {0.25}, {0.5}, {0.75}]


def test_predictions_without_labels_keep_the_order():
    *arrays, _ = task(3, 1, 6)
    arrays[2] = np.arange(18, dtype=np.uint8)[:, None, None, None] + np.zeros(
        [18, 5, 5, 3], np.uint8
    )
    images = plots.predictions(*arrays).axes[0].images[3:]
    assert [image.get_array()[0, 0, 0] for image in images] == list(range(18))
    extents = [image.get_extent() for image in images]
    assert extents == sorted(extents, key=lambda extent: (extent[3], extent[0]))


def test_wrong_shapes_are_rejected():
    support_x, support_y, query_x, probabilities, query_y = task(3, 1, 2)
    with pytest.raises(ValueError, match="a label for each image"):
        plots.predictions(support_x[1:], support_y, query_x, probabilities)
    with pytest.raises(ValueError, match="a name for each label, .* 2 names"):
        plots.predictions(support_x, support_y, query_x, probabilities, "ab")
    with pytest.raises(ValueError, match=r"probabilities \[6, 3\], got \[5, 3\]"):
        plots.predictions(support_x, support_y, query_x, probabilities[1:])
    with pytest.raises(ValueError, match="6 labels of support_y"):
        plots.predictions(
            support_x, support_y, query_x, probabilities, None, query_y + 1
        )
    with pytest.raises(ValueError, match=r"query_x \[n, H, W, 1 or 3\] .* got \[0, 28"):
        plots.predictions(support_x, support_y, query_x[:0], probabilities[:0])
    with pytest.raises(ValueError, match=r"support_x .* got \[3, 28, 28\]"):
        plots.predictions(support_x[..., 0], support_y, query_x, probabilities)
    for labels in (support_y - 1, support_y * 1.0):
        with pytest.raises(ValueError, match="list of labels 0, 1"):
            plots.predictions(support_x, labels, query_x, probabilities)
    with pytest.raises(ValueError, match="finite probabilities"):
        plots.predictions(support_x, support_y, query_x, probabilities * np.nan)
    curve = [1], [1]
    with pytest.raises(ValueError, match="points of 2 x and 3 y"):
        plots.fit([1, 2], [1, 2, 3], *curve)
    for name, values in {
        "scale": [1, 2],
        "truth": [1, 2],
        "query": ([1], [1, 2]),
    }.items():
        with pytest.raises(ValueError, match=f"got {name} of 1 x and 2 y"):
            plots.fit(*curve, *curve, **{name: values})


def test_fit_draws_points_curves_and_band():
    grid = np.linspace(-1, 1, 7)
    figure = plots.fit(
        [[0.0], [1.0]],
        [[2.0], [3.0]],
        grid[:, None],
        grid**2,
        scale=np.full(7, 0.5),
        truth=grid**3,
        query=([0.5], [0.25]),
    )
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    assert set(lines) == {"truth", "learned curve", "predicted", "known points"}
    np.testing.assert_array_equal(lines["known points"], [[0, 2], [1, 3]])
    np.testing.assert_array_equal(lines["learned curve"], np.stack([grid, grid**2], 1))
    np.testing.assert_array_equal(lines["truth"], np.stack([grid, grid**3], 1))
    np.testing.assert_array_equal(lines["predicted"], [[0.5, 0.25]])
    (band,) = figure.axes[0].collections
    edges = band.get_paths()[0].vertices[:, 1]
    # The curve has values from 0 to 1; the band adds two standard deviations of 0.5.
    np.testing.assert_allclose([edges.min(), edges.max()], [-1, 2])
    assert len(plots.fit([0], [1], grid, grid).axes[0].lines) == 2


def test_scales_are_drawn_by_module():
    learner = km.SigmaMAML(km.networks.mlp(), "mse", frozen=["dense1"])
    learner.scaled_log_variances.assign(
        2 * np.log([0.01, 2.0, 30.0]) / learner.scale_rate
    )
    figure = plots.scales(learner, 5)
    assert_legible(figure)
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["dense1", "dense2", "head"]
    initial_line, *lines = axes.lines
    assert set(initial_line.get_xdata()) == {learner.initial_scale}
    points = [line.get_xdata()[0] for line in lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, [0.01, 2.0, 30.0], rtol=1e-5)
    notes = [text.get_text() for text in axes.texts]
    # w = S sigma^2 / (S sigma^2 + a), a = 0.4.
    assert notes == ["0.01   w = 0.000 (frozen)", "2   w = 0.980", "30   w = 1.000"]
    notes_without_w = [text.get_text() for text in plots.scales(learner).axes[0].texts]
    assert notes_without_w == ["0.01 (frozen)", "2", "30"]
    assert axes.yaxis_inverted()  # the first module on top
    with pytest.raises(ValueError, match="learns scales .* got MAML"):
        plots.scales(km.MAML(km.networks.mlp(), "mse"))


def test_known_pixels_are_placed_and_unknown_pixels_are_blue():
    x = [[0.0, 0.0], [0.5, 1.0], [1.0, 0.0]]
    image = plots.placed(x, [0.1, 0.2, 0.3], (3, 2))
    np.testing.assert_array_equal(image, [[0.1, np.nan], [np.nan, 0.2], [0.3, np.nan]])
    figure = plots.images([("three", [image, image]), ("all", [image * 0] * 2)], "ab")
    assert_legible(figure)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["three", "", "all", ""]
    for axes in figure.axes:
        assert axes.images[0].norm.vmin == 0 and axes.images[0].norm.vmax == 1
        blue = matplotlib.colors.to_rgb("lightsteelblue")
        assert matplotlib.colors.to_rgb(axes.get_facecolor()) == blue
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array().data, image)


def test_names_that_the_font_lacks_are_drawn_without_a_warning():
    x, y = np.zeros([3, 4, 4, 1], "uint8"), np.arange(3)
    names = ["字", "caf\udce9\n", "𓀀\u1d84 ж"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.predictions(x, y, x, np.eye(3), names)
        figure.savefig(io.BytesIO(), format="png")
        figure.savefig(io.BytesIO(), format="pdf")
    drawn_texts = {text.get_text() for text in texts(figure)}
    assert "caf��" in drawn_texts and drawn_texts & {"字", "?"}
    # A font with the character is used; Matplotlib includes one for this character.
    default = list(matplotlib.rcParams["font.family"])
    text, families = plot_text.drawable("a\u1d84", "normal")
    assert matplotlib.rcParams["font.family"] == default
    assert text == "a\u1d84" and families[0] == "sans-serif" and len(families) == 2
    assert plot_text.family_of("𓀀", "bold") or plot_text.drawable("𓀀", "bold")[0] == "?"


def test_small_groups_share_a_row():
    *arrays, query_y = task(20, 1, 4)
    figure = plots.predictions(*arrays, None, query_y)
    extents = [image.get_extent() for image in figure.axes[0].images[20:]]
    rows = {top for *_, top in extents}
    assert len(rows) == 10  # two classes of four queries in each row
    right = max(right for _, right, *_ in extents)
    assert right > 0.85 * figure.get_size_inches()[0]


# Inner steps of an adaptation curve of iMAML (16 steps), and epochs of fine-tuning.
@pytest.mark.parametrize("x", [(0, 1, 2, 3, 5, 10, 16, 20, 50), (0, 1, 100, 200, 500)])
@pytest.mark.parametrize("log", [False, True])
def test_curves_are_legible(x, log):
    mean = np.linspace(20, 99, len(x))
    scores = {
        name: (x, mean, mean / 20) for name in ("maml", "sigma_maml.omniglot", "c")
    }
    figure = plots.curves(scores, "inner steps", "accuracy (%)", log)
    assert_legible(figure)
    (axes,) = figure.axes
    assert axes.get_legend() is None  # the legend lies outside and covers no curve
    assert len(figure.legends) == 1
    if log:
        labels = [float(label.get_text()) for label in axes.get_xticklabels()]
        assert set(labels) <= set(x) and {0, 1} <= set(labels)
        assert 20 not in labels or 16 not in labels


def test_fits_and_images_are_legible():
    grid = np.linspace(-1, 1, 50)
    figure = plots.fit([0, 1], [1, 2], grid, grid, grid**2, grid, ([0.5], [0.5]))
    assert_legible(figure)
    blank = np.zeros([28, 28])
    rows = [(f"{n} pixels", [blank] * 4) for n in (10, 100, 300)]
    assert_legible(plots.images(rows, ["known", "mean", "scale", "truth"]))

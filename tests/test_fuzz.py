"""Tests with random inputs, which return a result or raise an error of one sentence.

`FUZZ_CASES=10000 python -m pytest tests/test_fuzz.py` runs more cases than the default
of 150.
"""

import contextlib
import io
import os
import warnings

import hypothesis
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from hypothesis import strategies

import keras_meta as km
from keras_meta import files, zoo
from keras_meta.zoo import cli, points

CASES = int(os.environ.get("FUZZ_CASES", 150))
CURVES = "maml.sinusoid"


def cases(share):
    """Runs a test on a share of the cases, on the same ones in each run."""
    return hypothesis.settings(
        max_examples=max(int(share * CASES), 2),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def result_or_none(function, *args, errors=ValueError):
    """Returns a function's result, or None if it raises an error of one sentence."""
    try:
        return function(*args)
    except errors as error:
        message = str(error)
        assert message.startswith("expected") and "\n" not in message.strip(), message
        return None


# Episodes.

size = strategies.integers(-1, 6) | strategies.sampled_from([10**12, 2.5, "1", None])


@cases(0.02)
@hypothesis.given(
    counts=strategies.lists(strategies.integers(0, 5), max_size=6),
    first=strategies.sampled_from([0, -7, 2**40]),
    kind=strategies.sampled_from(["uint8", "float32", "float64", "int64", "U3", "O"]),
    shape=strategies.lists(strategies.integers(0, 3), max_size=3),
    sizes=strategies.tuples(size, size, size),
    seed=strategies.integers(-(2**40), 2**70),
)
@hypothesis.example([1], 0, "U3", [0], (0, 0, 0), 0)
def test_episodes(counts, first, kind, shape, sizes, seed):
    labels = first + np.repeat(np.arange(len(counts)), counts)
    examples = np.zeros([len(labels), *shape]).astype(kind)
    pool = result_or_none(km.ClassPool.from_arrays, examples, labels)
    data = pool and result_or_none(pool.episodes, *sizes, seed)
    if data:
        ways, shots, queries = sizes
        episode, query_y = next(iter(data))
        assert episode["support_x"].shape == [ways * shots, *shape]
        assert np.bincount(episode["support_y"]).tolist() == [shots] * ways
        assert np.bincount(query_y).tolist() == [queries] * ways


# Learners with inputs of fixed shapes; only the values are random.

WAYS, SUPPORT, QUERIES = 3, 4, 2


def blocks(*shape):
    """Draws arrays with a few special values among normally distributed values."""
    special = [np.nan, np.inf, -np.inf, 1e4, -1e4, 0.0, 1e-38]
    position = strategies.integers(0, int(np.prod(shape)) - 1)
    changes = strategies.dictionaries(
        position, strategies.sampled_from(special), max_size=4
    )

    def block(seed, scale, changes):
        x = scale * np.random.RandomState(seed).normal(size=shape)
        x.flat[list(changes)] = list(changes.values())
        return x.astype("float32")

    scales = strategies.sampled_from([0.0, 1.0, 100.0])
    return strategies.builds(block, strategies.integers(0, 99), scales, changes)


def network(inputs, outputs):
    return km.networks.mlp((inputs,), outputs, (8,))


LEARNERS = {
    "MAML": lambda: km.MAML(network(3, WAYS), inner_rate=0.1, inner_steps=2),
    "SigmaMAML": lambda: km.SigmaMAML(network(3, WAYS), inner_rate=0.1),
    "ProtoNet": lambda: km.ProtoNet(network(3, 4), WAYS),
    "CNP": lambda: km.CNP(
        network(3, 4), network(8, 1), "sparse_categorical_crossentropy", WAYS
    ),
    "LSTMLearner": lambda: km.LSTMLearner(example_shape=[3], outputs=WAYS, units=4),
    "MANN": lambda: km.MANN(
        example_shape=[3], outputs=WAYS, units=4, rows=4, width=3, heads=2
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", LEARNERS)
def test_learners(name):
    learner = LEARNERS[name]()
    labels = strategies.lists(
        strategies.integers(0, WAYS - 1) | strategies.integers(-2, WAYS + 1),
        min_size=SUPPORT,
        max_size=SUPPORT,
    )

    @cases(0.1)
    @hypothesis.given(blocks(1, SUPPORT, 3), labels, blocks(1, QUERIES, 3))
    def run(support_x, support_y, query_x):
        state = result_or_none(learner.adapt, support_x, np.array([support_y], "int32"))
        present = set(support_y)
        gap = learner.gapless and present != set(range(len(present)))
        bad = gap or min(present) < 0 or max(present) >= WAYS
        assert (state is None) == bool(bad or not np.isfinite(support_x).all())
        if state:
            logits = result_or_none(learner.infer, state, query_x)
            assert (logits is None) == (not np.isfinite(query_x).all())
            assert logits is None or np.isfinite(logits).all()

    run()


# Files.


def pictures():
    """Yields the bytes of an image of each supported format."""
    pixels = np.random.RandomState(0).randint(0, 256, [9, 7, 3], "uint8")
    for image_format in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, image_format)
        yield file.getvalue()


@strategies.composite
def damaged(draw, contents):
    """Draws the bytes of a damaged file: truncated, changed in places, or random."""
    content = bytearray(draw(strategies.sampled_from(contents)))
    for _ in range(draw(strategies.integers(0, 4))):
        position = draw(strategies.integers(0, len(content) - 1))
        content[position] = draw(strategies.integers(0, 255))
    end = draw(strategies.integers(0, len(content)) | strategies.just(len(content)))
    return bytes(content[:end]) or draw(strategies.binary(max_size=40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images(folder):
    suffixes = strategies.sampled_from(["png", "jpg", "gif", "bmp", "webp", "txt"])

    @cases(0.1)
    @hypothesis.given(damaged(list(pictures())), suffixes)
    def run(content, suffix):
        path = folder / f"image.{suffix}"
        path.write_bytes(content)
        image = result_or_none(files.load_image, path)
        assert image is None or (image.dtype == np.uint8 and image.shape[-1] in (1, 3))

    run()


@pytest.mark.filterwarnings("ignore:.* skipped, a folder")
def test_folders(tmp_path):
    names = strategies.sampled_from(["a", "b", "a/b", ".hidden", "ç", "empty"])
    contents = strategies.dictionaries(
        strategies.tuples(names, strategies.sampled_from(["1.png", "2.jpg", "notes"])),
        damaged(list(pictures())),
        max_size=6,
    )
    prepare = km.ImagePreprocess(8, 8, 1)
    runs = iter(range(10**6))

    @cases(0.02)
    @hypothesis.given(contents, strategies.booleans())
    def run(contents, in_memory):
        root = tmp_path / str(next(runs))
        root.mkdir()
        for (name, file), content in contents.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / file).write_bytes(content)
        pool = result_or_none(km.ClassPool.from_directory, root, prepare, in_memory)
        assert pool is None or pool.shape == (8, 8, 1)

    run()


TABLES = [b"x,y\n0,1\n1,2\n2,\n", b"x,y\r\n0.5,1e3\r\n-1,2\r\n", b'y,x\n"1",2\n,3\n']


def test_points(folder):
    @cases(0.1)
    @hypothesis.given(damaged(TABLES) | strategies.text(max_size=30).map(str.encode))
    @hypothesis.example(b'x,y\n",1\n1,2\n2,\n')
    @hypothesis.example(b'",y\n0')
    def run(content):
        path = folder / "points.csv"
        path.write_bytes(content)
        result_or_none(points.read, path)

    run()


# The command.

WORDS = [
    *("list", "info", "learn", "evaluate", "export", "check", "request"),
    *("--support", "--model", "--out", "--episodes", "--ways", "--shots", "--seed"),
    *("--queries", "--local", "--query", "--jit", "--learner", "--lake-runs", "-h"),
    *("--json", "--csv=-", "--quiet", "--data", "--protocol=lake", "--all"),
    *("nothing", "nothing.csv", "nothing.keras", "", "0", "-1", "1e9", "5", "é", "\0"),
    *(CURVES, "localhost:1", "http://", "MAML", "--", "--episodes=x"),
]


@cases(0.05)
@hypothesis.given(
    strategies.lists(strategies.sampled_from(WORDS) | strategies.text(max_size=5))
)
@hypothesis.example(["list", "\x1e0"])
def test_command(argv):
    # Commands that succeed take long and have tests of their own.
    hypothesis.assume(not (CURVES in argv and {"evaluate", "export"} & set(argv)))
    hypothesis.assume(not {"export", "--all"} <= set(argv))
    hypothesis.assume(not (CURVES in argv and "check" in argv))
    hypothesis.assume("demo" not in argv)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(argv)
        except SystemExit as exit_error:  # raised by argparse
            code = exit_error.code
    assert code in (0, 2)
    error_lines = err.getvalue().strip().splitlines()
    assert (error_lines == []) == (code == 0)
    assert code == 0 or ": error: " in error_lines[-1]


@pytest.mark.thorough
def test_learning_a_curve(folder, monkeypatch):
    learner = zoo.load(CURVES)
    monkeypatch.setattr(zoo, "load", lambda name: learner)
    value = strategies.floats(width=32) | strategies.integers(-9, 9) | strategies.none()

    @cases(0.01)
    @hypothesis.given(strategies.lists(strategies.tuples(value, value), max_size=6))
    def run(pairs):
        path = folder / "curve.csv"
        rows = [["" if v is None else str(v) for v in pair] for pair in pairs]
        path.write_text("\n".join(map(",".join, [["x", "y"], *rows])))
        argv = ["learn", path, "--model", CURVES, "--out", folder / "curve.png"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = cli.main(list(map(str, argv)))
        error = err.getvalue().strip()
        assert code in (0, 2) and (code == 0 or "keras-meta: error: expected" in error)

    run()


# Served requests.


@pytest.fixture(scope="module")
def server(folder):
    """Yields `inputs -> outputs` through TensorFlow Serving's loader and session."""
    path = str(km.export(zoo.load(CURVES), folder / "served"))
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        with session.graph.as_default():
            meta_graph = v1.saved_model.loader.load(session, ["serve"], path)
        signature = meta_graph.signature_def["serving_default"]
        fetch = {name: value.name for name, value in signature.outputs.items()}

        def predict(inputs):
            feed = {signature.inputs[name].name: x for name, x in inputs.items()}
            return session.run(fetch, feed)

        yield predict


@pytest.mark.thorough
def test_served_requests(server):
    valid = {
        "support_x": np.ones([2, 3, 1], "float32"),
        "support_y": np.ones([2, 3, 1], "float32"),
        "query_x": np.ones([2, 4, 1], "float32"),
    }
    expected = server(valid)["mean"]
    sizes = strategies.lists(strategies.integers(0, 3), min_size=3, max_size=3)
    shapes = strategies.just(None) | sizes
    offsets = strategies.sampled_from([0.0, 1.0, np.nan, np.inf, -1e4, 1e30])

    @cases(0.1)
    @hypothesis.given(
        strategies.fixed_dictionaries(
            {name: strategies.tuples(shapes, offsets) for name in valid}
        )
    )
    def run(changes):
        inputs = {}
        for name, (shape, value) in changes.items():
            x = valid[name] if shape is None else np.ones(shape, "float32")
            inputs[name] = x + np.float32(value)
        try:
            means = server(inputs)["mean"]
        except tf.errors.InvalidArgumentError as error:
            assert "expected" in error.message, error.message
        except ValueError as error:  # the session requires the graph's shapes
            assert "Cannot feed value of shape" in str(error)
        else:
            assert means.shape == (*inputs["query_x"].shape[:2], 1)
            assert np.isfinite(means).all()

    run()
    np.testing.assert_array_equal(server(valid)["mean"], expected)

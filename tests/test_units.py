"""Tests of points in any units against NumPy, from time stamps to 1e30."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import curves
from tests import test_zoo_files

SCALED = ("cnp.gp_rbf", "cnp.gp_rbf-attention", "cnp.gp_rbf-sharp")
# Float32 errors of about twelve operations, relative to predictions of size 1.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def build_cnp(**settings):
    keras.utils.set_random_seed(0)
    networks = km.networks.mlp((2,), 8, (8,)), km.networks.mlp((9,), 2, (8,))
    return km.CNP(*networks, **{"point_units": km.StandardUnits(), **settings})


def points(seed=0, tasks=2, count=6, queries=5):
    random = np.random.RandomState(seed)
    x, y = random.uniform(-3, 3, (2, tasks, count, 1))
    return x, y, random.uniform(-3, 3, (tasks, queries, 1))


def predict(learner, x, y, query_x):
    state = learner.point_units.adapt(learner, x, y)
    outputs = learner.point_units.infer(learner, state, query_x)
    assert all(output.dtype == tf.float64 for output in outputs)
    return [output.numpy() for output in outputs]


def numpy_reference(learner, x, y, query_x, end=2.0, known=1.6):
    """Predicts one task at a time, scaled by NumPy."""
    means, scales = [], []
    for task_x, task_y, task_query in zip(x, y, query_x, strict=True):
        centre = (task_x.min() + task_x.max()) / 2
        unit = (task_x.max() - task_x.min()) / 2 / known
        middle, spread = task_y.mean(), task_y.std()
        state = learner.adapt(
            [(task_x - centre) / unit],
            [(task_y - middle) / spread],
        )
        scaled = np.clip((task_query - centre) / unit, -end, end)
        mean, scale = (output.numpy()[0] for output in learner.infer(state, [scaled]))
        means.append(middle + spread * mean.astype("float64"))
        scales.append(spread * scale.astype("float64"))
    return np.stack(means), np.stack(scales)


def test_points_are_scaled_by_their_own_support_set():
    x, y, query_x = points()
    query_x[0, :2] = [[50.0], [-50.0]]  # far outside: clipped to the ends
    x[1] = 200 * x[1] + 7  # each task has its own units
    for end, known in ((2.0, 1.6), (1.0, 1.0)):
        learner = build_cnp(point_units=km.StandardUnits(end, known))
        predictions = predict(learner, x, y, query_x)
        expected = numpy_reference(learner, x, y, query_x, end, known)
        np.testing.assert_allclose(predictions, expected, **CLOSE)


@pytest.mark.parametrize("shift", [1.7e9, 2459000.5, -1e12])
def test_predictions_shift_and_scale_with_the_curve(shift):
    x, y, query_x = points()
    # Rounded to the float64 precision of shifted x, as in a file of time stamps.
    step = 2.0**-10
    x, query_x = (np.round(values / step) * step for values in (x, query_x))
    learner = build_cnp()
    mean, scale = predict(learner, x, y, query_x)
    moved = predict(learner, x + shift, y, query_x + shift)
    np.testing.assert_allclose(moved, [mean, scale], **CLOSE)
    for factor in (1e30, 1e-30, 1e37):
        scaled_mean, scaled_scale = predict(learner, x, factor * y, query_x)
        np.testing.assert_allclose(scaled_mean / factor, mean, **CLOSE)
        np.testing.assert_allclose(scaled_scale / factor, scale, **CLOSE)
    moved_mean, moved_scale = predict(learner, x, y + 1e9, query_x)
    np.testing.assert_allclose(moved_mean - 1e9, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved_scale, scale, **CLOSE)


def test_no_prediction_depends_on_the_other_queries():
    x, y, query_x = points()
    learner = build_cnp()
    together = np.array(predict(learner, x, y, query_x))
    single = np.array(predict(learner, x, y, query_x[:, :1]))
    np.testing.assert_allclose(together[:, :, :1], single, rtol=1e-6)


def test_constant_points_are_centred_but_not_scaled():
    learner = build_cnp()
    # The floating-point mean of ten equal numbers often differs from the number.
    level = np.random.RandomState(0).uniform(size=[20, 1, 1])
    constant, zeros = np.tile(level, [1, 10, 1]), np.zeros([20, 10, 1])
    mean, scale = predict(learner, 1e6 + zeros, constant, 1e6 + zeros)
    outputs = learner.infer(learner.adapt(zeros, zeros), zeros)
    np.testing.assert_allclose(mean, level + outputs[0].numpy(), rtol=1e-5)
    np.testing.assert_allclose(scale, outputs[1], rtol=1e-5)
    empty = np.zeros([1, 0, 1])
    mean, scale = predict(learner, empty, empty, [[[0.5]]])
    expected = learner.infer(learner.adapt(empty, empty), [[[0.5]]])
    np.testing.assert_allclose([mean, scale], expected, rtol=1e-6)


def test_invalid_points_and_units_are_rejected():
    learner = build_cnp()
    x, y, query_x = points()
    units, state = learner.point_units, learner.point_units.adapt(learner, x, y)
    with pytest.raises(ValueError, match="finite values in support_x"):
        units.adapt(learner, x * np.nan, y)
    with pytest.raises(ValueError, match="finite values in the units"):
        units.adapt(learner, x, y * 1e200)
    with pytest.raises(ValueError, match=r"support_y of shape \[T, S, 1\]"):
        units.adapt(learner, x, y[..., 0])
    with pytest.raises(ValueError, match="equal T and S"):
        units.adapt(learner, x, y[:, 1:])
    # Infinite queries are not clipped to the end of the range.
    with pytest.raises(ValueError, match="finite values in query_x"):
        units.infer(learner, state, query_x + np.inf)
    with pytest.raises(ValueError, match="same number of tasks"):
        units.infer(learner, state, query_x[:1])
    for end, known in ((1.0, 2.0), (np.inf, 1.0), (1.0, 0.0), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="expected 0 < known <= end"):
            km.StandardUnits(end, known)
    with pytest.raises(ValueError, match="expected point_units to be StandardUnits"):
        learner.point_units = "standard"
    network = km.networks.mlp((2,), 2, ())
    with pytest.raises(ValueError, match="no point_units for classification"):
        km.ProtoNet(network, point_units=km.StandardUnits())


def test_units_and_absent_units_are_saved(tmp_path):
    for units in (km.StandardUnits(3.0, 1.5), None):
        learner = build_cnp(point_units=units)
        learner.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        if units is None:
            assert loaded.point_units is None
        else:
            assert loaded.point_units.get_config() == {"end": 3.0, "known": 1.5}


def test_any_learner_for_regression_accepts_points(tmp_path):
    x, y, query_x = points()
    learner = km.MAML(km.networks.mlp((1,), 1, (4,)), "mse")
    learner.point_units = km.StandardUnits()
    state = learner.point_units.adapt(learner, x, y)
    mean = learner.point_units.infer(learner, state, query_x)
    moved_state = learner.point_units.adapt(learner, x + 1e9, y)
    moved_mean = learner.point_units.infer(learner, moved_state, query_x + 1e9)
    # Float64 x near 1e9 has seven decimal places.
    np.testing.assert_allclose(mean, moved_mean, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_an_export_accepts_points_in_any_units(tmp_path):
    learner = build_cnp(aggregate="attention")
    signatures = tf.saved_model.load(str(km.export(learner, tmp_path / "c"))).signatures
    x, y, query_x = points()
    x, query_x = x + 1.7e9, query_x + 1.7e9
    expected = predict(learner, x, y, query_x)
    support = {"support_x": tf.constant(x), "support_y": tf.constant(y)}
    query = {"query_x": tf.constant(query_x)}
    state = signatures["adapt_points"](**support)
    assert {"centre", "unit", "middle", "spread"} < set(state)
    for outputs in (
        signatures["serving_points"](**support, **query),
        signatures["infer_points"](**state, **query),
    ):
        assert outputs["mean"].dtype == outputs["scale"].dtype == tf.float64
        np.testing.assert_allclose(outputs["mean"], expected[0], rtol=1e-6)
        np.testing.assert_allclose(outputs["scale"], expected[1], rtol=1e-6)
    # The other signatures stay in the units of training, in float32.
    specs = signatures["serving_default"].structured_input_signature[1]
    assert {spec.dtype for spec in specs.values()} == {tf.float32}
    invalid = {"support_x": tf.constant(x * np.inf), "support_y": tf.constant(y)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="finite values in sup"):
        signatures["serving_points"](**invalid, **query)
    readme = (tmp_path / "c" / "README.md").read_text()
    assert '"signature_name": "serving_points"' in readme


def test_a_learner_without_units_exports_no_points_signature(tmp_path):
    path = km.export(build_cnp(point_units=None), tmp_path / "c")
    assert set(tf.saved_model.load(str(path)).signatures) == {
        "serving_default",
        "adapt",
        "infer",
    }


@pytest.mark.parametrize("name", SCALED)
def test_entries_with_units_keep_their_golden_predictions(name):
    with np.load(test_zoo_files.GOLDEN / "logits.npz") as golden:
        images, expected = golden["images"], golden[name]
    learner = zoo.load(name)
    x, y, query_x = test_zoo_files.episode(learner, images)
    outputs = np.stack(learner.infer(learner.adapt(x, y), query_x), axis=-1)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SCALED)
def test_predictions_of_entries_shift_and_scale_with_the_curve(name):
    learner = zoo.load(name)
    x = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    support, query_x = np.stack([x, np.sin(x)], 1), np.array([0.5, 2.5, 4.5])
    mean, scale = curves.predict(learner, support, query_x)
    for shift in (1.7e9, 2459000.5):
        moved = curves.predict(learner, support + [shift, 0], query_x + shift)
        np.testing.assert_allclose(moved, [mean, scale], **CLOSE)
    scaled_mean, scaled_scale = curves.predict(learner, support * [1, 2e30], query_x)
    np.testing.assert_allclose(scaled_mean / 2e30, mean, **CLOSE)
    np.testing.assert_allclose(scaled_scale / 2e30, scale, **CLOSE)

"""Points in units of their own: against NumPy, from time stamps to 1e30."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import cards, curves
from tests import test_zoo_files

SCALED = ("cnp.gp_rbf", "cnp.gp_rbf-attention", "cnp.gp_rbf-sharp")
# Float32 of the learner, a dozen operations deep, relative to predictions of size 1.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def process(**settings):
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


def by_hand(learner, x, y, query_x, end=2.0, known=1.6):
    """One task after the other, scaled by NumPy."""
    means, scales = [], []
    for one_x, one_y, one_query in zip(x, y, query_x, strict=True):
        centre = (one_x.min() + one_x.max()) / 2
        unit = (one_x.max() - one_x.min()) / 2 / known
        middle, spread = one_y.mean(), one_y.std()
        state = learner.adapt(
            [(one_x - centre) / unit],
            [(one_y - middle) / spread],
        )
        asked = np.clip((one_query - centre) / unit, -end, end)
        mean, scale = (output.numpy()[0] for output in learner.infer(state, [asked]))
        means.append(middle + spread * mean.astype("float64"))
        scales.append(spread * scale.astype("float64"))
    return np.stack(means), np.stack(scales)


def test_points_are_scaled_by_their_own_support():
    x, y, query_x = points()
    query_x[0, :2] = [[50.0], [-50.0]]  # far outside: as at the ends
    x[1] = 200 * x[1] + 7  # tasks have units of their own
    for end, known in ((2.0, 1.6), (1.0, 1.0)):
        learner = process(point_units=km.StandardUnits(end, known))
        found = predict(learner, x, y, query_x)
        expected = by_hand(learner, x, y, query_x, end, known)
        np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("shift", [1.7e9, 2459000.5, -1e12])
def test_a_shifted_or_scaled_curve_is_the_same_curve(shift):
    x, y, query_x = points()
    # Of the float64 that x has when shifted: what a file of time stamps holds.
    step = 2.0**-10
    x, query_x = (np.round(values / step) * step for values in (x, query_x))
    learner = process()
    mean, scale = predict(learner, x, y, query_x)
    moved = predict(learner, x + shift, y, query_x + shift)
    np.testing.assert_allclose(moved, [mean, scale], **CLOSE)
    for factor in (1e30, 1e-30, 1e37):
        larger, wider = predict(learner, x, factor * y, query_x)
        np.testing.assert_allclose(larger / factor, mean, **CLOSE)
        np.testing.assert_allclose(wider / factor, scale, **CLOSE)
    far, width = predict(learner, x, y + 1e9, query_x)
    np.testing.assert_allclose(far - 1e9, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(width, scale, **CLOSE)


def test_no_prediction_depends_on_the_other_queries():
    x, y, query_x = points()
    learner = process()
    whole = np.array(predict(learner, x, y, query_x))
    alone = np.array(predict(learner, x, y, query_x[:, :1]))
    np.testing.assert_allclose(whole[:, :, :1], alone, rtol=1e-6)


def test_points_that_set_no_unit_are_centred_only():
    learner = process()
    # Of ten times a number, the mean in floating point is often another.
    level = np.random.RandomState(0).uniform(size=[20, 1, 1])
    same, place = np.tile(level, [1, 10, 1]), np.zeros([20, 10, 1])
    mean, scale = predict(learner, 1e6 + place, same, 1e6 + place)
    outputs = learner.infer(learner.adapt(place, place), place)
    np.testing.assert_allclose(mean, level + outputs[0].numpy(), rtol=1e-5)
    np.testing.assert_allclose(scale, outputs[1], rtol=1e-5)
    none = np.zeros([1, 0, 1])
    mean, scale = predict(learner, none, none, [[[0.5]]])
    expected = learner.infer(learner.adapt(none, none), [[[0.5]]])
    np.testing.assert_allclose([mean, scale], expected, rtol=1e-6)


def test_what_is_refused():
    learner = process()
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
    # An infinity is not the end of the range.
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


def test_units_are_saved_and_absent_units_too(tmp_path):
    for units in (km.StandardUnits(3.0, 1.5), None):
        learner = process(point_units=units)
        learner.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        if units is None:
            assert again.point_units is None
        else:
            assert again.point_units.get_config() == {"end": 3.0, "known": 1.5}


def test_any_learner_for_regression_takes_points(tmp_path):
    x, y, query_x = points()
    learner = km.MAML(km.networks.mlp((1,), 1, (4,)), "mse")
    learner.point_units = km.StandardUnits()
    state = learner.point_units.adapt(learner, x, y)
    mean = learner.point_units.infer(learner, state, query_x)
    moved = learner.point_units.adapt(learner, x + 1e9, y)
    again = learner.point_units.infer(learner, moved, query_x + 1e9)
    # 1e9 leaves x seven digits behind the point.
    np.testing.assert_allclose(mean, again, rtol=1e-4, atol=1e-5)


def test_an_export_takes_points_in_their_own_units(tmp_path):
    learner = process(aggregate="attention")
    signatures = tf.saved_model.load(str(km.export(learner, tmp_path / "c"))).signatures
    x, y, query_x = points()
    x, query_x = x + 1.7e9, query_x + 1.7e9
    expected = predict(learner, x, y, query_x)
    known = {"support_x": tf.constant(x), "support_y": tf.constant(y)}
    asked = {"query_x": tf.constant(query_x)}
    state = signatures["adapt_points"](**known)
    assert {"centre", "unit", "middle", "spread"} < set(state)
    for found in (
        signatures["serving_points"](**known, **asked),
        signatures["infer_points"](**state, **asked),
    ):
        assert found["mean"].dtype == found["scale"].dtype == tf.float64
        np.testing.assert_allclose(found["mean"], expected[0], rtol=1e-6)
        np.testing.assert_allclose(found["scale"], expected[1], rtol=1e-6)
    # The other signatures stay in the units of training, in float32.
    specs = signatures["serving_default"].structured_input_signature[1]
    assert {spec.dtype for spec in specs.values()} == {tf.float32}
    bad = {"support_x": tf.constant(x * np.inf), "support_y": tf.constant(y)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="finite values in sup"):
        signatures["serving_points"](**bad, **asked)
    page = (tmp_path / "c" / "README.md").read_text()
    assert '"signature_name": "serving_points"' in page


def test_a_learner_without_units_has_no_signature_for_them(tmp_path):
    path = km.export(process(point_units=None), tmp_path / "c")
    assert set(tf.saved_model.load(str(path)).signatures) == {
        "serving_default",
        "adapt",
        "infer",
    }


@pytest.mark.parametrize("card", cards.stored(), ids=lambda card: card.name)
def test_entries_state_their_units(card):
    units = zoo.load(card.name).point_units
    assert card.any_units == (units is not None) == (card.name in SCALED)


@pytest.mark.parametrize("name", SCALED)
def test_entries_that_got_units_have_the_weights_of_before(name):
    with np.load(test_zoo_files.GOLDEN / "logits.npz") as golden:
        images, expected = golden["images"], golden[name]
    learner = zoo.load(name)
    x, y, query_x = test_zoo_files.episode(learner, images)
    outputs = np.stack(learner.infer(learner.adapt(x, y), query_x), axis=-1)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SCALED)
def test_a_curve_over_unix_seconds_is_the_curve(name):
    learner = zoo.load(name)
    x = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    known, asked = np.stack([x, np.sin(x)], 1), np.array([0.5, 2.5, 4.5])
    mean, scale = curves.predict(learner, known, asked)
    for shift in (1.7e9, 2459000.5):
        moved = curves.predict(learner, known + [shift, 0], asked + shift)
        np.testing.assert_allclose(moved, [mean, scale], **CLOSE)
    large, wide = curves.predict(learner, known * [1, 2e30], asked)
    np.testing.assert_allclose(large / 2e30, mean, **CLOSE)
    np.testing.assert_allclose(wide / 2e30, scale, **CLOSE)

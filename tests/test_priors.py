"""Priors: the distribution, its proximal operators, and that adapting reads it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_meta as km
from keras_meta import priors
from tests import smooth

tfd = tfp.distributions
SETTINGS = {"inner_rate": 0.3, "inner_steps": 3}


@keras.saving.register_keras_serializable("tests")
def logistic(phi, scale):
    return tfd.Logistic(phi, scale)


@keras.saving.register_keras_serializable("tests")
def gumbel(phi, scale):
    return tfd.Gumbel(phi, scale)


@keras.saving.register_keras_serializable("tests")
def normal_too(phi, scale):
    """A normal distribution whose class no operator knows."""
    return tfd.GeneralizedNormal(phi, 2**0.5 * scale, 2.0)


# Negative log densities up to a constant, of z = (theta - phi) / scale.
BY_HAND = {
    "normal": lambda z: z**2 / 2,
    "laplace": np.abs,
    logistic: lambda z: z + 2 * np.log1p(np.exp(-z)),
    gumbel: lambda z: z + np.exp(-z),
}


def name_of(prior):
    return getattr(prior, "__name__", prior)


def least(function, low, high):
    """The argmin of a convex function of a number, by golden section."""
    share = (5**0.5 - 1) / 2
    for _ in range(200):
        a, b = high - share * (high - low), low + share * (high - low)
        low, high = (low, b) if function(a) < function(b) else (a, high)
    return (low + high) / 2


@pytest.mark.parametrize("prior", BY_HAND, ids=name_of)
def test_the_operator_is_the_argmin(prior):
    random = np.random.RandomState(0)
    points, phi = random.normal(scale=2, size=[2, 40])
    scale, weight = 0.7, 0.4
    distribution = priors.family_of(prior)(
        tf.constant(phi), tf.constant(scale, "double")
    )
    found = priors.proximal(distribution, tf.constant(points), weight)
    for theta, point, centre in zip(found.numpy(), points, phi, strict=True):
        expected = least(
            lambda t, point=point, centre=centre: (
                (t - point) ** 2 / 2 + weight * BY_HAND[prior]((t - centre) / scale)
            ),
            point - 5,
            point + 5,
        )
        assert theta == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("prior", BY_HAND, ids=name_of)
def test_the_gradient_of_the_operator_is_its_slope(prior):
    arguments = [tf.constant(v, "double") for v in ([1.5, -2.0], [0.2, 0.1], 0.7)]

    def value(point, phi, scale):
        distribution = priors.family_of(prior)(phi, scale)
        return tf.reduce_sum(priors.proximal(distribution, point, 0.4) * [1.0, 3.0])

    with tf.GradientTape() as tape:
        tape.watch(arguments)
        total = value(*arguments)
    for place, gradient in enumerate(tape.gradient(total, arguments)):
        for index in np.ndindex(*gradient.shape):
            sides = []
            for change in (1e-5, -1e-5):
                moved = [v.numpy() for v in arguments]
                moved[place] = np.array(moved[place])
                moved[place][index] += change
                sides.append(float(value(*map(tf.constant, moved))))
            slope = (sides[0] - sides[1]) / 2e-5
            assert float(gradient.numpy()[index]) == pytest.approx(slope, abs=1e-7)


@pytest.mark.thorough
def test_the_numerical_step_equals_the_exact_one():
    episode, _ = smooth.episode()
    states = [
        km.SigmaMAML(
            smooth.network(), prior=prior, initial_scale=0.4, **SETTINGS
        ).adapt(episode["support_x"], episode["support_y"])
        for prior in ("normal", normal_too)
    ]
    for a, b in zip(*(state["weights"] for state in states), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_the_prior_is_what_was_learned():
    learner = km.SigmaMAML(smooth.network(), initial_scale=0.5, frozen=["norm"])
    learner.scaled_log_variances.assign([-0.1, 0.3, 0.2])
    prior = learner.prior()
    assert list(prior.model) == ["conv", "head"]
    random = np.random.RandomState(0)
    total, sample = 0.0, {}
    for module, scale in learner.scales().items():
        if module == "norm":
            continue
        sample[module] = {}
        for variable in learner.network.get_layer(module).trainable_variables:
            path = f"{module}/{variable.name}"
            value = random.normal(size=variable.shape)
            sample[module][path] = tf.constant(value)
            z = (value - variable.numpy()) / scale
            total -= np.sum(z**2 / 2 + np.log(scale) + np.log(2 * np.pi) / 2)
    assert float(prior.log_prob(sample)) == pytest.approx(total, rel=1e-6)
    drawn = prior.sample(seed=1)
    assert drawn["head"]["head/bias"].shape == [3]


def test_adapting_reads_the_distribution():
    # A learner whose prior is another object adapts as that object says.
    class Other(km.SigmaMAML):
        def prior_at(self, meta, start, examples):
            prior = super().prior_at(meta, start, examples)
            members = {
                module: tfd.JointDistributionNamed(
                    {
                        path: tfd.Independent(
                            tfd.Laplace(each.distribution.loc, each.distribution.scale),
                            len(each.event_shape),
                        )
                        for path, each in weights.model.items()
                    }
                )
                for module, weights in prior.model.items()
            }
            return tfd.JointDistributionNamed(members)

    episode, _ = smooth.episode()
    support = episode["support_x"], episode["support_y"]
    other = Other(smooth.network(), **SETTINGS).adapt(*support)
    laplace = km.SigmaMAML(smooth.network(), prior="laplace", **SETTINGS).adapt(
        *support
    )
    normal = km.SigmaMAML(smooth.network(), **SETTINGS).adapt(*support)
    differences = []
    for a, b, c in zip(
        *(state["weights"] for state in (other, laplace, normal)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        differences.append(np.abs(a - c).max())
    assert max(differences) > 1e-3


def test_a_laplace_prior_leaves_weights_exactly_where_they_are():
    episode, query_y = smooth.episode()
    learner = km.SigmaMAML(
        smooth.network(), prior="laplace", initial_scale=2.0, **SETTINGS
    )
    state = learner.adapt(episode["support_x"], episode["support_y"])
    moves = np.concatenate(
        [
            (weight.numpy() - phi.numpy()).ravel()
            for weight, phi in zip(state["weights"], learner.adapted(), strict=True)
        ]
    )
    assert 0.05 < np.mean(moves == 0) < 0.95
    # In the dead zone nothing moves, and the scales have no gradient.
    learner.scaled_log_variances.assign([-1.5] * 3)
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    names = [variable.name for variable in variables]
    assert not np.any(gradients[names.index("scaled_log_variances")])


@pytest.mark.thorough
@pytest.mark.parametrize("prior", ["laplace", logistic], ids=name_of)
def test_the_meta_gradient_under_another_prior_is_the_losses_slope(prior):
    episode, query_y = smooth.episode()
    learner = km.SigmaMAML(smooth.network(), prior=prior, initial_scale=5.0, **SETTINGS)
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    value = lambda: float(smooth.LOSS(query_y, learner(episode)))  # noqa: E731
    for direction, slope in smooth.slopes(value, variables, width=1e-6):
        expected = smooth.along(gradients, direction)
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.thorough
@pytest.mark.parametrize("prior", ["laplace", logistic], ids=name_of)
def test_fine_tuning_keeps_the_family(prior, tmp_path):
    episode, _ = smooth.episode(tasks=1)
    x, y = episode["support_x"][0], episode["support_y"][0]
    settings = {"inner_rate": 0.3, "initial_scale": 2.0, "prior": prior}
    network = smooth.network(normalized=False)
    one = km.SigmaMAML(network, inner_steps=1, **settings)
    model = km.finetune(one, x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    three = km.SigmaMAML(smooth.network(normalized=False), inner_steps=3, **settings)
    expected = three.adapt(x[None], y[None])["weights"]
    for each in (model, loaded):
        each.fit(x, y, epochs=2, batch_size=len(x), verbose=0)
        for variable, value in zip(each.trainable_variables, expected, strict=True):
            # Keras' fit brings NumPy arrays to float32.
            np.testing.assert_allclose(variable, value[0], atol=1e-6)
    # Another optimizer finds -log p / S in the loss, by hand.
    loaded.compile(keras.optimizers.SGD(0.01), loss=one.support_loss)
    total = loaded.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    data = float(smooth.LOSS(y, loaded.network(x)))
    penalty = sum(
        np.sum(
            BY_HAND[prior]((theta.numpy() - phi.numpy()) / 2.0) - BY_HAND[prior](0.0)
        )
        for theta, phi in zip(loaded.trainable_variables, one.adapted(), strict=True)
    )
    assert total == pytest.approx(data + penalty / len(y), rel=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("prior", ["laplace", logistic], ids=name_of)
def test_the_family_is_saved(prior, tmp_path):
    learner = km.SigmaMAML(smooth.network(), prior=prior, **SETTINGS)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    assert loaded.prior_family == learner.prior_family == prior
    episode, _ = smooth.episode()
    np.testing.assert_allclose(loaded(episode), learner(episode), atol=1e-12)


@pytest.mark.parametrize("kind", [km.SigmaIMAML, km.SigmaReptile])
def test_meta_gradients_of_a_normal_prior_take_no_other(kind):
    sentence = f"expected prior to be 'normal' for {kind.__name__}, .* got 'laplace'"
    with pytest.raises(ValueError, match=sentence):
        kind(smooth.network(), prior="laplace")


@pytest.mark.parametrize(
    "prior", ["cauchy", tfd.Normal, None, lambda phi, scale: phi], ids=range(4)
)
def test_a_family_that_is_not_known(prior):
    with pytest.raises(ValueError, match="expected prior to be 'normal', 'laplace' or"):
        km.SigmaMAML(smooth.network(), prior=prior)


def test_the_part_of_a_step_that_a_module_keeps():
    learner = km.SigmaMAML(smooth.network(), inner_rate=0.4, frozen=["norm"])
    learner.scaled_log_variances.assign(np.log([4.0, 1.0, 0.01]) / learner.scale_rate)
    found = learner.shares(5)
    assert found == pytest.approx(
        {"conv": 20 / 20.4, "norm": 0.0, "head": 0.05 / 0.45}, rel=1e-5
    )
    with pytest.raises(ValueError, match="expected examples to be a number above 0"):
        learner.shares(0)
    with pytest.raises(ValueError, match="expected a normal prior"):
        km.SigmaMAML(smooth.network(), prior="laplace").shares(5)

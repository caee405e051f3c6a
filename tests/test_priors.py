"""Tests of priors: distributions, proximal operators, and use in adaptation."""

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
def generalized_normal(phi, scale):
    """A normal distribution of a class without an exact proximal operator."""
    return tfd.GeneralizedNormal(phi, 2**0.5 * scale, 2.0)


# Negative log densities of z = (theta - phi) / scale, up to a constant.
PENALTIES = {
    "normal": lambda z: z**2 / 2,
    "laplace": np.abs,
    logistic: lambda z: z + 2 * np.log1p(np.exp(-z)),
    gumbel: lambda z: z + np.exp(-z),
}


def name_of(prior):
    return getattr(prior, "__name__", prior)


def argmin(function, low, high):
    """Minimizes a convex function of one variable by golden-section search."""
    ratio = (5**0.5 - 1) / 2
    for _ in range(200):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if function(a) < function(b) else (a, high)
    return (low + high) / 2


@pytest.mark.parametrize("prior", PENALTIES, ids=name_of)
def test_proximal_operator_minimizes_its_objective(prior):
    random = np.random.RandomState(0)
    points, phi = random.normal(scale=2, size=[2, 40])
    scale, weight = 0.7, 0.4
    distribution = priors.family_of(prior)(
        tf.constant(phi), tf.constant(scale, "double")
    )
    minimizers = priors.proximal(distribution, tf.constant(points), weight)
    for theta, point, centre in zip(minimizers.numpy(), points, phi, strict=True):
        expected = argmin(
            lambda t, point=point, centre=centre: (
                (t - point) ** 2 / 2 + weight * PENALTIES[prior]((t - centre) / scale)
            ),
            point - 5,
            point + 5,
        )
        assert theta == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    "prior",
    [
        "normal",
        "laplace",
        *(pytest.param(p, marks=pytest.mark.thorough) for p in (logistic, gumbel)),
    ],
    ids=name_of,
)
def test_proximal_gradient_matches_finite_differences(prior):
    arguments = [tf.constant(v, "double") for v in ([1.5, -2.0], [0.2, 0.1], 0.7)]

    def weighted_sum(point, phi, scale):
        distribution = priors.family_of(prior)(phi, scale)
        return tf.reduce_sum(priors.proximal(distribution, point, 0.4) * [1.0, 3.0])

    with tf.GradientTape() as tape:
        tape.watch(arguments)
        total = weighted_sum(*arguments)
    for position, gradient in enumerate(tape.gradient(total, arguments)):
        for index in np.ndindex(*gradient.shape):
            sides = []
            for change in (1e-5, -1e-5):
                shifted = [v.numpy() for v in arguments]
                shifted[position] = np.array(shifted[position])
                shifted[position][index] += change
                sides.append(float(weighted_sum(*map(tf.constant, shifted))))
            slope = (sides[0] - sides[1]) / 2e-5
            assert float(gradient.numpy()[index]) == pytest.approx(slope, abs=1e-7)


@pytest.mark.thorough
def test_numerical_proximal_operator_equals_the_exact_one():
    episode, _ = smooth.episode()
    states = [
        km.SigmaMAML(
            smooth.network(), prior=prior, initial_scale=0.4, **SETTINGS
        ).adapt(episode["support_x"], episode["support_y"])
        for prior in ("normal", generalized_normal)
    ]
    for a, b in zip(*(state["weights"] for state in states), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_prior_has_the_learned_means_and_scales():
    learner = km.SigmaMAML(smooth.network(), initial_scale=0.5, frozen=["norm"])
    learner.scaled_log_variances.assign([-0.1, 0.3, 0.2])
    prior = learner.prior()
    assert list(prior.model) == ["conv", "head"]
    random = np.random.RandomState(0)
    log_prob, sample = 0.0, {}
    for module, scale in learner.scales().items():
        if module == "norm":
            continue
        sample[module] = {}
        for variable in learner.network.get_layer(module).trainable_variables:
            path = f"{module}/{variable.name}"
            value = random.normal(size=variable.shape)
            sample[module][path] = tf.constant(value)
            z = (value - variable.numpy()) / scale
            log_prob -= np.sum(z**2 / 2 + np.log(scale) + np.log(2 * np.pi) / 2)
    assert float(prior.log_prob(sample)) == pytest.approx(log_prob, rel=1e-6)
    weights = prior.sample(seed=1)
    assert weights["head"]["head/bias"].shape == [3]


@pytest.mark.thorough
def test_adapt_uses_an_overridden_prior():
    # A learner that overrides `prior_at` adapts under that distribution.
    class Overriding(km.SigmaMAML):
        def prior_at(self, meta, start, examples):
            prior = super().prior_at(meta, start, examples)
            members = {
                module: tfd.JointDistributionNamed(
                    {
                        path: tfd.Independent(
                            tfd.Laplace(leaf.distribution.loc, leaf.distribution.scale),
                            len(leaf.event_shape),
                        )
                        for path, leaf in weights.model.items()
                    }
                )
                for module, weights in prior.model.items()
            }
            return tfd.JointDistributionNamed(members)

    episode, _ = smooth.episode()
    support = episode["support_x"], episode["support_y"]
    overridden = Overriding(smooth.network(), **SETTINGS).adapt(*support)
    laplace = km.SigmaMAML(smooth.network(), prior="laplace", **SETTINGS).adapt(
        *support
    )
    normal = km.SigmaMAML(smooth.network(), **SETTINGS).adapt(*support)
    differences = []
    for a, b, c in zip(
        *(state["weights"] for state in (overridden, laplace, normal)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        differences.append(np.abs(a - c).max())
    assert max(differences) > 1e-3


def test_a_laplace_prior_keeps_some_weights_unchanged():
    episode, query_y = smooth.episode()
    learner = km.SigmaMAML(
        smooth.network(), prior="laplace", initial_scale=2.0, **SETTINGS
    )
    state = learner.adapt(episode["support_x"], episode["support_y"])
    changes = np.concatenate(
        [
            (weight.numpy() - phi.numpy()).ravel()
            for weight, phi in zip(state["weights"], learner.adapted(), strict=True)
        ]
    )
    assert 0.05 < np.mean(changes == 0) < 0.95
    # In the dead zone no weight changes, and the scales have no gradient.
    learner.scaled_log_variances.assign([-1.5] * 3)
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    names = [variable.name for variable in variables]
    assert not np.any(gradients[names.index("scaled_log_variances")])


@pytest.mark.thorough
@pytest.mark.parametrize("prior", ["laplace", logistic], ids=name_of)
def test_meta_gradient_of_other_priors_matches_finite_differences(prior):
    episode, query_y = smooth.episode()
    learner = km.SigmaMAML(smooth.network(), prior=prior, initial_scale=5.0, **SETTINGS)
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    compute_loss = lambda: float(smooth.LOSS(query_y, learner(episode)))  # noqa: E731
    for direction, slope in smooth.slopes(compute_loss, variables, width=1e-6):
        expected = smooth.along(gradients, direction)
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.thorough
@pytest.mark.parametrize("prior", ["laplace", logistic], ids=name_of)
def test_fine_tuning_uses_the_prior_family(prior, tmp_path):
    episode, _ = smooth.episode(tasks=1)
    x, y = episode["support_x"][0], episode["support_y"][0]
    settings = {"inner_rate": 0.3, "initial_scale": 2.0, "prior": prior}
    network = smooth.network(normalized=False)
    maml = km.SigmaMAML(network, inner_steps=1, **settings)
    model = km.finetune(maml, x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    target = km.SigmaMAML(smooth.network(normalized=False), inner_steps=3, **settings)
    expected = target.adapt(x[None], y[None])["weights"]
    for tuned in (model, loaded):
        tuned.fit(x, y, epochs=2, batch_size=len(x), verbose=0)
        for variable, value in zip(tuned.trainable_variables, expected, strict=True):
            # Keras' fit converts NumPy arrays to float32.
            np.testing.assert_allclose(variable, value[0], atol=1e-6)
    # With another optimizer, the loss includes -log p / S.
    loaded.compile(keras.optimizers.SGD(0.01), loss=maml.support_loss)
    loss = loaded.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    data_loss = float(smooth.LOSS(y, loaded.network(x)))
    penalty = sum(
        np.sum(
            PENALTIES[prior]((theta.numpy() - phi.numpy()) / 2.0)
            - PENALTIES[prior](0.0)
        )
        for theta, phi in zip(loaded.trainable_variables, maml.adapted(), strict=True)
    )
    assert loss == pytest.approx(data_loss + penalty / len(y), rel=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("prior", ["laplace", logistic], ids=name_of)
def test_prior_family_is_saved(prior, tmp_path):
    learner = km.SigmaMAML(smooth.network(), prior=prior, **SETTINGS)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    assert loaded.prior_family == learner.prior_family == prior
    episode, _ = smooth.episode()
    np.testing.assert_allclose(loaded(episode), learner(episode), atol=1e-12)


@pytest.mark.parametrize("kind", [km.SigmaIMAML, km.SigmaReptile])
def test_learners_that_need_a_normal_prior_reject_others(kind):
    message = f"expected prior to be 'normal' for {kind.__name__}, .* got 'laplace'"
    with pytest.raises(ValueError, match=message):
        kind(smooth.network(), prior="laplace")


@pytest.mark.parametrize(
    "prior", ["cauchy", tfd.Normal, None, lambda phi, scale: phi], ids=range(4)
)
def test_unknown_families_are_rejected(prior):
    with pytest.raises(ValueError, match="expected prior to be 'normal', 'laplace' or"):
        km.SigmaMAML(smooth.network(), prior=prior)


def test_shares_of_a_step_that_modules_keep():
    learner = km.SigmaMAML(smooth.network(), inner_rate=0.4, frozen=["norm"])
    learner.scaled_log_variances.assign(np.log([4.0, 1.0, 0.01]) / learner.scale_rate)
    shares = learner.shares(5)
    assert shares == pytest.approx(
        {"conv": 20 / 20.4, "norm": 0.0, "head": 0.05 / 0.45}, rel=1e-5
    )
    with pytest.raises(ValueError, match="expected examples to be a number above 0"):
        learner.shares(0)
    with pytest.raises(ValueError, match="expected a normal prior"):
        km.SigmaMAML(smooth.network(), prior="laplace").shares(5)

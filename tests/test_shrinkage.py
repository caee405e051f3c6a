"""Tests of shrinkage learners: limits, proximal step, gradients, closed forms."""

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import steps
from tests import smooth

RATE, STEPS = 0.3, 3
SETTINGS = {"inner_rate": RATE, "inner_steps": STEPS}


def adapt(learner, episode):
    state = learner.adapt(episode["support_x"], episode["support_y"])
    return state["weights"]


def assert_close(actual, expected, rtol=1e-9, atol=1e-12):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "plain_kind", "arguments"),
    [
        (km.SigmaMAML, km.MAML, {}),
        (km.SigmaReptile, km.Reptile, {"joint": False}),
    ],
)
def test_an_infinite_scale_equals_the_plain_method(kind, plain_kind, arguments):
    episode, query_y = smooth.episode()
    # The share w differs from 1 by a / (S sigma^2) = 5e-14.
    learner = kind(smooth.network(), initial_scale=1e6, **SETTINGS)
    plain = plain_kind(smooth.network(), **SETTINGS, **arguments)
    assert_close(adapt(learner, episode), adapt(plain, episode))
    loss, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    expected_loss, expected, _, _ = plain.meta_gradient(episode, query_y)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-10)
    weight_gradients = [
        g
        for g, v in zip(gradients, variables, strict=True)
        if v is not learner.scaled_log_variances
    ]
    assert_close(weight_gradients, expected, rtol=1e-8)


@pytest.mark.thorough
def test_one_fixed_scale_equals_imaml():
    episode, query_y = smooth.episode()
    examples, strength = 6, 2.0
    scale = (1 / (examples * strength)) ** 0.5
    settings = {"conjugate_steps": 7, "damping": 0.1, **SETTINGS}
    sigma = km.SigmaIMAML(smooth.network(), initial_scale=scale, **settings)
    imaml = km.IMAML(smooth.network(), regularization=strength, **settings)
    # Keras' Constant initializer rounds the scale to float32.
    assert_close(adapt(sigma, episode), adapt(imaml, episode), rtol=1e-6, atol=1e-8)
    _, gradients, variables, _ = sigma.meta_gradient(episode, query_y)
    _, expected, _, _ = imaml.meta_gradient(episode, query_y)
    names = [v.name for v in variables]
    del gradients[names.index("scaled_log_variances")]
    assert_close(gradients, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [km.SigmaMAML, km.SigmaIMAML, km.SigmaReptile])
def test_a_scale_near_zero_keeps_the_initial_weights(kind):
    episode, _ = smooth.episode()
    learner = kind(smooth.network(), initial_scale=1e-9, **SETTINGS)
    for weight, initial in zip(
        adapt(learner, episode), learner.network.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(weight, np.stack([initial] * 2), atol=1e-14)


def test_an_inner_step_minimizes_the_objective_with_the_tfp_prior():
    # A step from phi minimizes `g.theta - log p(theta) / S + |theta - phi|^2 / 2a`.
    episode, _ = smooth.episode(tasks=1)
    settings = {"inner_rate": 0.4, "inner_steps": 2, "initial_scale": 0.5}
    learner = km.SigmaMAML(smooth.network(), **settings)
    learner.scaled_log_variances.assign([-0.1, 0.05, 0.2])
    one_step = km.SigmaMAML(smooth.network(), **{**settings, "inner_steps": 1})
    one_step.set_weights(learner.get_weights())
    start = [w[0] for w in adapt(one_step, episode)]
    end = [w[0] for w in adapt(learner, episode)]
    x, y = episode["support_x"][0], episode["support_y"][0]
    model = km.finetune(one_step, x, y)  # a plain network at the weights after one step
    with tf.GradientTape() as tape:
        loss = smooth.LOSS(y, model.network(x, training=True))
    gradient = tape.gradient(loss, model.trainable_variables)
    prior = learner.prior()
    paths = learner.paths_of(learner.adapted())
    with tf.GradientTape() as tape:
        tape.watch(end)
        sample = {
            module: {path: end[paths.index(path)] for path in weights.model}
            for module, weights in prior.model.items()
        }
        total = steps.inner_product(gradient, end) - prior.log_prob(sample) / len(y)
        total += sum(
            tf.reduce_sum((new - old) ** 2) / (2 * 0.4)
            for new, old in zip(end, start, strict=True)
        )
    # The objective is strictly convex: its gradient vanishes only at the minimum.
    for slope in tape.gradient(total, end):
        np.testing.assert_allclose(slope, np.zeros(slope.shape), atol=1e-9)
    assert max(np.abs(a - b).max() for a, b in zip(end, start, strict=True)) > 1e-3


@pytest.mark.thorough
@pytest.mark.parametrize("modules", ["layer", "weight", lambda path: path[0]])
def test_sigma_maml_gradient_matches_finite_differences(modules):
    episode, query_y = smooth.episode()
    learner = km.SigmaMAML(
        smooth.network(), modules=modules, initial_scale=0.4, **SETTINGS
    )
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    learner.scaled_log_variances.assign_add(
        0.01 * np.arange(len(learner.modules))
    )  # different scales
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    compute_loss = lambda: float(smooth.LOSS(query_y, learner(episode)))  # noqa: E731
    for direction, slope in smooth.slopes(compute_loss, variables):
        expected = smooth.along(gradients, direction)
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.thorough
def test_implicit_gradient_equals_a_dense_solve():
    episode, query_y = smooth.episode(tasks=1)
    learner = km.SigmaIMAML(
        smooth.network(normalized=False),
        initial_scale=0.3,
        conjugate_steps=80,  # more steps than weights
        damping=0.05,
        **SETTINGS,
    )
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    network = learner.network
    start = [v.numpy() for v in network.trainable_variables]
    weights = [w[0] for w in adapt(learner, episode)]
    for variable, value in zip(network.trainable_variables, weights, strict=True):
        variable.assign(value)

    def flat_gradient(x, y):
        with tf.GradientTape() as tape:
            loss = smooth.LOSS(y, network(x))
        gradients = tape.gradient(loss, network.trainable_variables)
        return tf.concat([tf.reshape(g, [-1]) for g in gradients], 0)

    with tf.GradientTape(persistent=True) as tape:
        support = flat_gradient(episode["support_x"][0], episode["support_y"][0])
    blocks = tape.jacobian(
        support, network.trainable_variables, experimental_use_pfor=False
    )
    hessian = np.concatenate([np.reshape(b, [len(support), -1]) for b in blocks], 1)
    query = flat_gradient(episode["query_x"][0], query_y[0]).numpy()
    precision = 1 / (6 * 0.3**2)
    solution = np.linalg.solve(hessian + (precision + 0.05) * np.eye(len(query)), query)
    shifts = np.concatenate(
        [np.ravel(w - p) for w, p in zip(weights, start, strict=True)]
    )
    gradient = np.concatenate(
        [
            np.ravel(g)
            for g, v in zip(gradients, variables, strict=True)
            if v is not learner.scaled_log_variances
        ]
    )
    np.testing.assert_allclose(gradient, precision * solution, rtol=1e-6, atol=1e-9)
    ends = np.cumsum([sum(w.shape.num_elements() for w in weights[:2]), 10**6])
    expected = [
        learner.scale_rate * precision * part.sum()
        for part in np.split(solution * shifts, ends[:1])
    ]
    (index,) = [i for i, v in enumerate(variables) if v is learner.scaled_log_variances]
    np.testing.assert_allclose(gradients[index], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.thorough
def test_implicit_gradient_equals_the_unrolled_gradient_at_the_optimum():
    episode, query_y = smooth.episode()
    settings = {"inner_rate": 0.5, "inner_steps": 40, "initial_scale": 0.3}
    implicit = km.SigmaIMAML(
        smooth.network(normalized=False), conjugate_steps=40, **settings
    )
    unrolled = km.SigmaMAML(smooth.network(normalized=False), **settings)
    _, gradients, _, _ = implicit.meta_gradient(episode, query_y)
    _, expected, _, _ = unrolled.meta_gradient(episode, query_y)
    assert_close(gradients, expected, rtol=1e-5, atol=1e-8)


def test_sigma_reptile_gradient_matches_its_definition():
    episode, query_y = smooth.episode(tasks=1)
    learner = km.SigmaReptile(
        smooth.network(), initial_scale=0.4, normalization="transductive", **SETTINGS
    )
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    weights = [w[0] for w in adapt(learner, episode)]
    network = learner.network
    shifts = [w - v for w, v in zip(weights, network.trainable_variables, strict=True)]
    for variable, value in zip(network.trainable_variables, weights, strict=True):
        variable.assign(value)
    with tf.GradientTape() as tape:
        outputs = network(episode["query_x"][0], training=True)
        loss = smooth.LOSS(query_y[0], outputs)
    slopes = tape.gradient(loss, network.trainable_variables)
    expected = {
        id(v): -m for v, m in zip(network.trainable_variables, shifts, strict=True)
    }
    scale_gradients = [
        learner.scale_rate
        * sum(
            tf.reduce_sum(m * g)
            for m, g, owner in zip(shifts, slopes, learner.module_names, strict=True)
            if owner == module
        )
        for module in learner.modules
    ]
    expected[id(learner.scaled_log_variances)] = tf.stack(scale_gradients)
    assert_close(gradients, [expected[id(v)] for v in variables], rtol=1e-8)


def split_gradients(learner, episode, query_y):
    """Returns gradients of log sigma^2 by module, and of the network's weights."""
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    scales = learner.scaled_log_variances
    (slope,) = [g for g, v in zip(gradients, variables, strict=True) if v is scales]
    others = [g for g, v in zip(gradients, variables, strict=True) if v is not scales]
    return slope / learner.scale_rate, others


@pytest.mark.thorough
def test_sigma_reptiles_implicit_rule_equals_the_unrolled_gradient_at_the_optimum():
    episode, query_y = smooth.episode()
    settings = {"inner_rate": 0.5, "inner_steps": 40, "initial_scale": 0.3}
    rule = {"scale_rule": "implicit", "conjugate_steps": 40}
    reptile = km.SigmaReptile(smooth.network(normalized=False), **rule, **settings)
    maml = km.SigmaMAML(smooth.network(normalized=False), **settings)
    gradient, updates = split_gradients(reptile, episode, query_y)
    expected, _ = split_gradients(maml, episode, query_y)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)
    # Phi follows Reptile's rule with either scale rule. The rule with H = 0 differs.
    plain = km.SigmaReptile(smooth.network(normalized=False), **settings)
    plain_gradient, plain_updates = split_gradients(plain, episode, query_y)
    assert_close(updates, plain_updates, rtol=1e-12)
    assert (np.abs(plain_gradient / expected - 1) > 0.1).any()


def test_sigma_reptiles_implicit_rule_equals_that_of_sigma_imaml():
    # Equal away from the optimum too, with batch statistics, damping and mini-batches.
    episode, query_y = smooth.episode()
    settings = {"conjugate_steps": 4, "damping": 0.1, "inner_batch": 4, **SETTINGS}
    reptile = km.SigmaReptile(smooth.network(), scale_rule="implicit", **settings)
    imaml = km.SigmaIMAML(smooth.network(), **settings)
    gradient, _ = split_gradients(reptile, episode, query_y)
    expected, _ = split_gradients(imaml, episode, query_y)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9)
    assert km.SigmaReptile.from_config(reptile.get_config()).scale_rule == "implicit"
    config = reptile.get_config()  # older files lack these settings
    for name in ("scale_rule", "conjugate_steps", "damping"):
        del config[name]
    assert km.SigmaReptile.from_config(config).scale_rule == "reptile"
    with pytest.raises(ValueError, match="expected scale_rule to be"):
        km.SigmaReptile(smooth.network(), scale_rule="other")


def test_hundreds_of_steps_do_not_diverge():
    episode, _ = smooth.episode()
    learner = km.SigmaMAML(
        smooth.network(),
        inner_rate=1.0,
        inner_steps=300,
        modules=lambda path: "tiny" if "conv" in path else "usual",
    )
    learner.scaled_log_variances.assign([-40 / 10, 0.0])
    weights = adapt(learner, episode)
    assert all(np.isfinite(w).all() for w in weights)


@pytest.mark.thorough
def test_frozen_modules_keep_their_weights_and_need_no_state(tmp_path):
    episode, query_y = smooth.episode()
    learner = km.SigmaMAML(smooth.network(), **SETTINGS)
    assert list(learner.scales()) == ["conv", "norm", "head"]
    assert list(learner.scales().values()) == pytest.approx([1.0] * 3)
    logits = learner(episode).numpy()
    learner.scaled_log_variances.assign([-10.0, -10.0, 0.0])
    expected = learner(episode).numpy()
    assert np.abs(expected - logits).max() > 1e-3
    assert learner.freeze_below(1e-3) == ["conv", "norm"]
    # A step that a scale of e^-50 shrinks is compared with no step.
    np.testing.assert_allclose(learner(episode), expected, rtol=1e-9)
    assert len(adapt(learner, episode)) == 2
    with smooth.float64():
        learner.save(tmp_path / "learner.keras")
        loaded = keras.models.load_model(tmp_path / "learner.keras")
    assert loaded.frozen == ("conv", "norm")
    np.testing.assert_allclose(loaded(episode), expected, rtol=1e-9)
    learner.freeze_below(10.0)
    np.testing.assert_allclose(adapt(learner, episode), [])
    assert np.isfinite(learner(episode)).all()
    # Frozen modules stay frozen, whatever their scales, until `frozen` is set.
    assert learner.freeze_below(1e-9) == ["conv", "norm", "head"]
    learner.frozen = []
    np.testing.assert_allclose(learner(episode), expected, rtol=1e-9)
    for invalid in (["tail"], "head"):
        with pytest.raises(ValueError, match="frozen to be a list of modules"):
            learner.frozen = invalid
    for invalid in (0, -1.0, math.nan, "a"):
        with pytest.raises(ValueError, match="scale to be a number above 0"):
            learner.freeze_below(invalid)


@pytest.mark.thorough
def test_methods_of_keras_use_the_frozen_modules():
    episode, query_y = smooth.episode()
    data = tf.data.Dataset.from_tensors((episode, query_y))
    learner = km.SigmaMAML(smooth.network(), **SETTINGS)
    learner.compile(keras.optimizers.SGD(0.0))

    def run_methods(learner):
        losses = learner.fit(data, verbose=0).history["loss"]
        test_loss = learner.evaluate(data, verbose=0, return_dict=True)["loss"]
        return losses[0], test_loss, learner.predict(data, verbose=0)

    unfrozen = run_methods(learner)
    learner.freeze_below(10.0)
    reference = km.SigmaMAML(smooth.network(), frozen=learner.frozen, **SETTINGS)
    reference.set_weights(learner.get_weights())
    reference.compile(keras.optimizers.SGD(0.0))
    for before, after, expected in zip(
        unfrozen, run_methods(learner), run_methods(reference), strict=True
    ):
        np.testing.assert_array_equal(after, expected)
        assert np.abs(after - before).max() > 1e-4


# One-dimensional Gaussian tasks: theta ~ N(0, sigma^2), y ~ N(theta, 1), phi = 0.


class HalfSquares(keras.losses.Loss):
    """-log N(y | mu, 1) up to a constant."""

    def call(self, y_true, y_pred):
        return 0.5 * keras.ops.sum(keras.ops.square(y_true - y_pred), axis=-1)


def gaussian_tasks(true_scale, examples):
    """Returns 4 tasks with the averages of quadratics of infinitely many tasks.

    theta and the mean noise of the support set take two values each, plus and minus
    their standard deviation.
    """
    thetas, noises = np.meshgrid(
        [-true_scale, true_scale], [-(examples**-0.5), examples**-0.5]
    )
    thetas, noises = thetas.reshape(-1, 1, 1), noises.reshape(-1, 1, 1)
    support = np.tile(thetas + noises, [1, examples, 1])
    ones = np.ones_like(support)
    episode = {"support_x": ones, "support_y": support, "query_x": ones[:, :1]}
    return episode, thetas


def gaussian_learner(scale):
    with smooth.float64():
        network = keras.Sequential(
            [
                keras.Input([1]),
                keras.layers.Dense(
                    1, use_bias=False, kernel_initializer="zeros", name="m"
                ),
            ]
        )
    return km.SigmaMAML(
        network,
        loss=HalfSquares(dtype="float64"),
        initial_scale=scale,
        inner_rate=0.7,
        inner_steps=25,  # the remaining distance is 0.3^25
    )


@pytest.mark.thorough
@pytest.mark.parametrize("true_scale", [0.5, 2.0])
def test_predictive_likelihood_is_stationary_at_the_true_scale(true_scale):
    examples = 4
    episode, query_y = gaussian_tasks(true_scale, examples)
    learner = gaussian_learner(1.0)
    gradient = tf.function(learner.meta_gradient, autograph=False)
    slopes = []
    for scale in true_scale * np.array([0.8, 1.0, 1.25]):
        learner.scaled_log_variances.assign([2 * np.log(scale) / learner.scale_rate])
        _, gradients, _, _ = gradient(episode, query_y)
        variables = tf.nest.flatten(learner.meta_variables())
        slopes += [
            float(g[0])
            for g, v in zip(gradients, variables, strict=True)
            if v is learner.scaled_log_variances
        ]
    assert slopes[0] < -1e-3 and slopes[2] > 1e-3
    assert slopes[1] == pytest.approx(0, abs=1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize("true_variance", [0.5, 1.0, 4.0])
def test_joint_map_collapses_where_the_closed_form_predicts(true_variance):
    # papers.md: collapse to zero if sigma_true^2 < 3/N; otherwise a local minimum at
    # (s - 1/N + sqrt((s + 1/N)(s - 3/N))) / 2 with s = sigma_true^2.
    examples = 4
    episode, _ = gaussian_tasks(true_variance**0.5, examples)
    grid = np.linspace(0.02, 6.0, 300)
    losses = []
    learner = gaussian_learner(1.0)
    for variance in grid:
        learner.scaled_log_variances.assign([np.log(variance) / learner.scale_rate])
        (theta,) = adapt(learner, episode)
        prior = learner.prior().model["m"].model["m/kernel"]
        loss = 0.5 * np.sum((episode["support_y"] - theta.numpy()) ** 2, axis=(1, 2))
        # The noise within the support set adds a constant, which is omitted.
        losses.append(np.mean(loss - prior.log_prob(theta)))
    minima = [
        grid[i]
        for i in range(1, len(grid) - 1)
        if losses[i] < losses[i - 1] and losses[i] < losses[i + 1]
    ]
    s, n = true_variance, examples
    if s < 3 / n:
        assert minima == [] and np.argmin(losses) == 0
    else:
        expected = (s - 1 / n + ((s + 1 / n) * (s - 3 / n)) ** 0.5) / 2
        assert minima == pytest.approx([expected], abs=grid[1] - grid[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modules": "block"}, "modules to be 'layer', 'weight'"),
        ({"modules": ["a"]}, "or 6 names"),
        ({"modules": lambda path: None}, "names of modules, strings, got None"),
        ({"initial_scale": 0.0}, "initial_scale to be a number above 0"),
        ({"initial_scale": math.inf}, "initial_scale to be a number above 0"),
        ({"initial_scale": "big"}, "initial_scale to be a number above 0, got 'big'"),
        ({"scale_rate": -1}, "scale_rate to be a number above 0"),
        ({"frozen": ["tail"]}, r"modules \(conv, norm, head\), got \['tail'\]"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        km.SigmaMAML(smooth.network(), **arguments)


@pytest.mark.thorough
def test_finetuning_takes_proximal_steps_to_the_mode():
    episode, _ = smooth.episode(tasks=1)
    x, y = episode["support_x"][0], episode["support_y"][0]
    settings = {"inner_rate": 0.3, "initial_scale": 0.5}
    start = km.SigmaMAML(smooth.network(), inner_steps=0, **settings)
    model = km.finetune(start, x, y)
    model.fit(x, y, epochs=3, batch_size=len(x), verbose=0)
    learner = km.SigmaMAML(smooth.network(), inner_steps=3, **settings)
    for variable, value in zip(
        model.trainable_variables, adapt(learner, episode), strict=True
    ):
        # Keras' `fit` converts NumPy arrays to float32.
        np.testing.assert_allclose(variable, value[0], atol=1e-6)


@pytest.mark.thorough
def test_optimizers_converge_to_the_same_mode():
    keras.utils.set_random_seed(0)
    random = np.random.RandomState(0)
    x, y = random.normal(size=[6, 3]), random.normal(size=[6, 2])
    x, y = x.astype("float32"), y.astype("float32")
    network = km.networks.mlp((3,), 2, (5,), activation="tanh")
    learner = km.SigmaMAML(network, "mse", initial_scale=0.3, inner_rate=0.2)
    weights = []
    for optimizer in (None, keras.optimizers.SGD(0.2)):
        model = km.finetune(learner, x, y, optimizer)
        data = tf.data.Dataset.from_tensors((x, y)).repeat(150)
        model.fit(data, verbose=0, shuffle=False)
        weights.append([v.numpy() for v in model.trainable_variables])
    start = network.get_weights()
    assert np.abs(weights[0][0] - start[0]).max() > 1e-2
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.thorough
def test_finetuning_keeps_frozen_layers(tmp_path):
    episode, _ = smooth.episode(tasks=1)
    x, y = episode["support_x"][0], episode["support_y"][0]
    learner = km.SigmaMAML(smooth.network(), frozen=["conv", "norm"], **SETTINGS)
    model = km.finetune(learner, x, y)
    assert [v.path for v in model.trainable_variables] == ["head/kernel", "head/bias"]
    np.testing.assert_allclose(model(x), learner({**episode, "query_x": x[None]})[0])
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for copy in (model, loaded):
        copy.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_allclose(model(x), loaded(x), rtol=1e-5)

    # A frozen module that is a part of a layer keeps its value in a trainable layer.
    learner = km.SigmaMAML(
        smooth.network(), modules="weight", frozen=["head/kernel"], **SETTINGS
    )
    model = km.finetune(learner, x, y)
    head = model.network.get_layer("head")  # the model contains the prior too
    kernel = head.kernel.numpy()
    model.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_allclose(head.kernel, kernel, atol=1e-10)
    assert np.abs(head.bias - learner.network.get_layer("head").bias).max() > 1e-3


def test_modules_of_nested_networks_have_names_without_the_network(tmp_path):
    def build_learner(**options):
        block = keras.Sequential([keras.Input([3]), keras.layers.Dense(4, name="a")])
        head = keras.layers.Dense(2, name="head")
        network = keras.Sequential([keras.Input([3]), block, head])
        return km.SigmaMAML(network, "mse", **options)

    assert build_learner().modules == build_learner().modules == ["a", "head"]
    learner = build_learner(frozen=["a"])
    learner.save(tmp_path / "learner.keras")
    assert keras.models.load_model(tmp_path / "learner.keras").frozen == ("a",)
    assert build_learner(modules="weight").modules[0] == "a/kernel"
    # A file of an older commit keeps its names of modules.
    names = ["sequential_27/a", "sequential_27/a", "head", "head"]
    config = {
        **build_learner().get_config(),
        "modules": names,
        "frozen": ["sequential_27/a"],
    }
    assert km.SigmaMAML.from_config(config).frozen == ("sequential_27/a",)


def diverging(kind):
    """Returns a learner, and a support set on which fine-tuning can diverge."""
    random = np.random.RandomState(0)
    x = random.normal(size=[6, 3]).astype("float32")
    if kind == "prior":
        y = random.normal(size=[6, 2]).astype("float32")
        network = km.networks.mlp((3,), 2, (5,))
        return km.SigmaMAML(network, "mse", initial_scale=0.01), x, y
    # Distances to a prototype that diverged are infinite, whatever the weights are.
    return km.ProtoNet(km.networks.mlp((3,), 4, (5,))), x, np.arange(6) % 3


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["prior", "state"])
def test_finetuning_that_diverges_raises_a_value_error(kind, tmp_path):
    learner, x, y = diverging(kind)
    model = km.finetune(learner, x, y, keras.optimizers.SGD(1e20))
    with pytest.raises(ValueError) as info:
        model.fit(x, y, epochs=5, verbose=0)
    assert re.fullmatch(
        r"expected a loss that stays finite, got (nan|inf) in epoch [2-5]: make the "
        r"model anew with a lower learning rate\.",
        str(info.value),
    )
    # Fine-tuning that does not diverge returns Keras' history.
    model = km.finetune(learner, x, y, keras.optimizers.SGD(1e-6))
    assert len(model.fit(x, y, epochs=2, verbose=0).history["loss"]) == 2

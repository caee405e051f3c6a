"""The shrinkage learners: limits, the proximal step, exact gradients, closed forms."""

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


def adapted(learner, episode):
    state = learner.adapt(episode["support_x"], episode["support_y"])
    return state["weights"]


def assert_same(found, expected, rtol=1e-9, atol=1e-12):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("sigma", "plain", "arguments"),
    [
        (km.SigmaMAML, km.MAML, {}),
        (km.SigmaReptile, km.Reptile, {"joint": False}),
    ],
)
def test_an_infinite_scale_is_the_plain_method(sigma, plain, arguments):
    episode, query_y = smooth.episode()
    # The share w differs from 1 by a / (S sigma^2) = 5e-14.
    one = sigma(smooth.network(), initial_scale=1e6, **SETTINGS)
    two = plain(smooth.network(), **SETTINGS, **arguments)
    assert_same(adapted(one, episode), adapted(two, episode))
    loss, gradients, variables, _ = one.meta_gradient(episode, query_y)
    expected_loss, expected, _, _ = two.meta_gradient(episode, query_y)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-10)
    scaled = [
        g
        for g, v in zip(gradients, variables, strict=True)
        if v is not one.scaled_log_variances
    ]
    assert_same(scaled, expected, rtol=1e-8)


def test_one_fixed_scale_is_imaml():
    episode, query_y = smooth.episode()
    examples, strength = 6, 2.0
    scale = (1 / (examples * strength)) ** 0.5
    settings = {"conjugate_steps": 7, "damping": 0.1, **SETTINGS}
    one = km.SigmaIMAML(smooth.network(), initial_scale=scale, **settings)
    two = km.IMAML(smooth.network(), regularization=strength, **settings)
    # Keras' Constant initializer, which holds the scale, rounds to float32.
    assert_same(adapted(one, episode), adapted(two, episode), rtol=1e-6, atol=1e-8)
    _, gradients, variables, _ = one.meta_gradient(episode, query_y)
    _, expected, _, _ = two.meta_gradient(episode, query_y)
    names = [v.name for v in variables]
    del gradients[names.index("scaled_log_variances")]
    assert_same(gradients, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sigma", [km.SigmaMAML, km.SigmaIMAML, km.SigmaReptile])
def test_a_zero_scale_adapts_nothing(sigma):
    episode, _ = smooth.episode()
    learner = sigma(smooth.network(), initial_scale=1e-9, **SETTINGS)
    for found, start in zip(
        adapted(learner, episode), learner.network.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(found, np.stack([start] * 2), atol=1e-14)


def test_the_step_is_the_argmin_under_the_tfp_prior():
    # One inner step from phi of `g.theta - log p(theta) / S + |theta - phi|^2 / 2a`.
    episode, _ = smooth.episode(tasks=1)
    settings = {"inner_rate": 0.4, "inner_steps": 2, "initial_scale": 0.5}
    learner = km.SigmaMAML(smooth.network(), **settings)
    learner.scaled_log_variances.assign([-0.1, 0.05, 0.2])
    first = km.SigmaMAML(smooth.network(), **{**settings, "inner_steps": 1})
    first.set_weights(learner.get_weights())
    before = [w[0] for w in adapted(first, episode)]
    moved = [w[0] for w in adapted(learner, episode)]
    x, y = episode["support_x"][0], episode["support_y"][0]
    model = km.finetune(first, x, y)  # a plain network at the weights after one step
    with tf.GradientTape() as tape:
        loss = smooth.LOSS(y, model.network(x, training=True))
    slope = tape.gradient(loss, model.trainable_variables)
    prior = learner.prior()
    paths = learner.paths_of(learner.adapted())
    with tf.GradientTape() as tape:
        tape.watch(moved)
        sample = {
            module: {path: moved[paths.index(path)] for path in weights.model}
            for module, weights in prior.model.items()
        }
        value = steps.inner_product(slope, moved) - prior.log_prob(sample) / len(y)
        value += sum(
            tf.reduce_sum((new - old) ** 2) / (2 * 0.4)
            for new, old in zip(moved, before, strict=True)
        )
    # The objective is strictly convex: its argmin is where its slope is zero.
    for zero in tape.gradient(value, moved):
        np.testing.assert_allclose(zero, np.zeros(zero.shape), atol=1e-9)
    assert max(np.abs(a - b).max() for a, b in zip(moved, before, strict=True)) > 1e-3


@pytest.mark.thorough
@pytest.mark.parametrize("modules", ["layer", "weight", lambda path: path[0]])
def test_sigma_maml_gradient_is_the_losses_slope(modules):
    episode, query_y = smooth.episode()
    learner = km.SigmaMAML(
        smooth.network(), modules=modules, initial_scale=0.4, **SETTINGS
    )
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    learner.scaled_log_variances.assign_add(
        0.01 * np.arange(len(learner.modules))
    )  # not all alike
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    value = lambda: float(smooth.LOSS(query_y, learner(episode)))  # noqa: E731
    for direction, slope in smooth.slopes(value, variables):
        expected = smooth.along(gradients, direction)
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_implicit_gradient_equals_a_dense_solve():
    episode, query_y = smooth.episode(tasks=1)
    learner = km.SigmaIMAML(
        smooth.network(normalized=False),
        initial_scale=0.3,
        conjugate_steps=80,  # more than there are weights
        damping=0.05,
        **SETTINGS,
    )
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    network = learner.network
    start = [v.numpy() for v in network.trainable_variables]
    weights = [w[0] for w in adapted(learner, episode)]
    for variable, value in zip(network.trainable_variables, weights, strict=True):
        variable.assign(value)

    def slope_of(x, y):
        with tf.GradientTape() as tape:
            loss = smooth.LOSS(y, network(x))
        found = tape.gradient(loss, network.trainable_variables)
        return tf.concat([tf.reshape(g, [-1]) for g in found], 0)

    with tf.GradientTape(persistent=True) as tape:
        slope = slope_of(episode["support_x"][0], episode["support_y"][0])
    blocks = tape.jacobian(
        slope, network.trainable_variables, experimental_use_pfor=False
    )
    hessian = np.concatenate([np.reshape(b, [len(slope), -1]) for b in blocks], 1)
    right = slope_of(episode["query_x"][0], query_y[0]).numpy()
    precision = 1 / (6 * 0.3**2)
    solution = np.linalg.solve(hessian + (precision + 0.05) * np.eye(len(right)), right)
    moves = np.concatenate(
        [np.ravel(w - p) for w, p in zip(weights, start, strict=True)]
    )
    found = np.concatenate(
        [
            np.ravel(g)
            for g, v in zip(gradients, variables, strict=True)
            if v is not learner.scaled_log_variances
        ]
    )
    np.testing.assert_allclose(found, precision * solution, rtol=1e-6, atol=1e-9)
    ends = np.cumsum([sum(w.shape.num_elements() for w in weights[:2]), 10**6])
    scales = [
        learner.scale_rate * precision * part.sum()
        for part in np.split(solution * moves, ends[:1])
    ]
    (index,) = [i for i, v in enumerate(variables) if v is learner.scaled_log_variances]
    np.testing.assert_allclose(gradients[index], scales, rtol=1e-6, atol=1e-9)


@pytest.mark.thorough
def test_implicit_gradient_is_the_unrolled_one_at_the_optimum():
    episode, query_y = smooth.episode()
    settings = {"inner_rate": 0.5, "inner_steps": 40, "initial_scale": 0.3}
    one = km.SigmaIMAML(
        smooth.network(normalized=False), conjugate_steps=40, **settings
    )
    two = km.SigmaMAML(smooth.network(normalized=False), **settings)
    _, found, _, _ = one.meta_gradient(episode, query_y)
    _, expected, _, _ = two.meta_gradient(episode, query_y)
    assert_same(found, expected, rtol=1e-5, atol=1e-8)


def test_sigma_reptile_gradient_is_its_definition():
    episode, query_y = smooth.episode(tasks=1)
    learner = km.SigmaReptile(
        smooth.network(), initial_scale=0.4, normalization="transductive", **SETTINGS
    )
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    weights = [w[0] for w in adapted(learner, episode)]
    network = learner.network
    moves = [w - v for w, v in zip(weights, network.trainable_variables, strict=True)]
    for variable, value in zip(network.trainable_variables, weights, strict=True):
        variable.assign(value)
    with tf.GradientTape() as tape:
        outputs = network(episode["query_x"][0], training=True)
        loss = smooth.LOSS(query_y[0], outputs)
    slopes = tape.gradient(loss, network.trainable_variables)
    expected = {
        id(v): -m for v, m in zip(network.trainable_variables, moves, strict=True)
    }
    scales = [
        learner.scale_rate
        * sum(
            tf.reduce_sum(m * g)
            for m, g, owner in zip(moves, slopes, learner.module_names, strict=True)
            if owner == module
        )
        for module in learner.modules
    ]
    expected[id(learner.scaled_log_variances)] = tf.stack(scales)
    assert_same(gradients, [expected[id(v)] for v in variables], rtol=1e-8)


def slope_of_scales(learner, episode, query_y):
    """The gradient of log sigma^2 by module, and those of the network's weights."""
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    scales = learner.scaled_log_variances
    (slope,) = [g for g, v in zip(gradients, variables, strict=True) if v is scales]
    rest = [g for g, v in zip(gradients, variables, strict=True) if v is not scales]
    return slope / learner.scale_rate, rest


@pytest.mark.thorough
def test_sigma_reptiles_implicit_rule_is_the_unrolled_gradient_at_the_optimum():
    episode, query_y = smooth.episode()
    settings = {"inner_rate": 0.5, "inner_steps": 40, "initial_scale": 0.3}
    rule = {"scale_rule": "implicit", "conjugate_steps": 40}
    one = km.SigmaReptile(smooth.network(normalized=False), **rule, **settings)
    two = km.SigmaMAML(smooth.network(normalized=False), **settings)
    found, moves = slope_of_scales(one, episode, query_y)
    expected, _ = slope_of_scales(two, episode, query_y)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    # Phi follows the rule of Reptile whatever the scales do; that with H = 0 differs.
    plain = km.SigmaReptile(smooth.network(normalized=False), **settings)
    other, same = slope_of_scales(plain, episode, query_y)
    assert_same(moves, same, rtol=1e-12)
    assert (np.abs(other / expected - 1) > 0.1).any()


def test_sigma_reptiles_implicit_rule_is_that_of_sigma_imaml():
    # Away from the optimum too, with batch normalization, damping and mini-batches.
    episode, query_y = smooth.episode()
    settings = {"conjugate_steps": 4, "damping": 0.1, "inner_batch": 4, **SETTINGS}
    one = km.SigmaReptile(smooth.network(), scale_rule="implicit", **settings)
    two = km.SigmaIMAML(smooth.network(), **settings)
    found, _ = slope_of_scales(one, episode, query_y)
    expected, _ = slope_of_scales(two, episode, query_y)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert km.SigmaReptile.from_config(one.get_config()).scale_rule == "implicit"
    config = one.get_config()  # a file of before has none of these
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
    weights = adapted(learner, episode)
    assert all(np.isfinite(w).all() for w in weights)


@pytest.mark.thorough
def test_frozen_modules_stay_and_cost_no_state(tmp_path):
    episode, query_y = smooth.episode()
    learner = km.SigmaMAML(smooth.network(), **SETTINGS)
    assert list(learner.scales()) == ["conv", "norm", "head"]
    assert list(learner.scales().values()) == pytest.approx([1.0] * 3)
    before = learner(episode).numpy()
    learner.scaled_log_variances.assign([-10.0, -10.0, 0.0])
    nearly = learner(episode).numpy()
    assert np.abs(nearly - before).max() > 1e-3
    assert learner.freeze_below(1e-3) == ["conv", "norm"]
    # e^-50 of a step against none at all.
    np.testing.assert_allclose(learner(episode), nearly, rtol=1e-9)
    assert len(adapted(learner, episode)) == 2
    with smooth.float64():
        learner.save(tmp_path / "learner.keras")
        loaded = keras.models.load_model(tmp_path / "learner.keras")
    assert loaded.frozen == ("conv", "norm")
    np.testing.assert_allclose(loaded(episode), nearly, rtol=1e-9)
    learner.freeze_below(10.0)
    np.testing.assert_allclose(adapted(learner, episode), [])
    assert np.isfinite(learner(episode)).all()
    # What was frozen stays so, whatever its scale; it can be thawed.
    assert learner.freeze_below(1e-9) == ["conv", "norm", "head"]
    learner.frozen = []
    np.testing.assert_allclose(learner(episode), nearly, rtol=1e-9)
    for wrong in (["tail"], "head"):
        with pytest.raises(ValueError, match="frozen to be a list of modules"):
            learner.frozen = wrong
    for wrong in (0, -1.0, math.nan, "a"):
        with pytest.raises(ValueError, match="scale to be a number above 0"):
            learner.freeze_below(wrong)


@pytest.mark.thorough
def test_keras_own_methods_see_what_is_frozen():
    episode, query_y = smooth.episode()
    data = tf.data.Dataset.from_tensors((episode, query_y))
    learner = km.SigmaMAML(smooth.network(), **SETTINGS)
    learner.compile(keras.optimizers.SGD(0.0))

    def seen(learner):
        trained = learner.fit(data, verbose=0).history["loss"]
        tested = learner.evaluate(data, verbose=0, return_dict=True)["loss"]
        return trained[0], tested, learner.predict(data, verbose=0)

    before = seen(learner)
    learner.freeze_below(10.0)
    other = km.SigmaMAML(smooth.network(), frozen=learner.frozen, **SETTINGS)
    other.set_weights(learner.get_weights())
    other.compile(keras.optimizers.SGD(0.0))
    for had, has, expected in zip(before, seen(learner), seen(other), strict=True):
        np.testing.assert_array_equal(has, expected)
        assert np.abs(has - had).max() > 1e-4


# The one-dimensional Gaussian: theta ~ N(0, sigma^2), y ~ N(theta, 1), phi = 0 known.


class HalfSquares(keras.losses.Loss):
    """-log N(y | mu, 1) up to a constant."""

    def call(self, y_true, y_pred):
        return 0.5 * keras.ops.sum(keras.ops.square(y_true - y_pred), axis=-1)


def gaussian_tasks(true_scale, examples):
    """Tasks whose averages of quadratics are those of infinitely many.

    theta and the mean noise of the support set each take the two values plus and minus
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
        inner_steps=25,  # the rest is 0.3^25
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
def test_joint_map_collapses_where_the_closed_form_says(true_variance):
    # papers.md: collapse to zero where sigma_true^2 < 3/N; otherwise the local minimum
    # (s - 1/N + sqrt((s + 1/N)(s - 3/N))) / 2 with s = sigma_true^2.
    examples = 4
    episode, _ = gaussian_tasks(true_variance**0.5, examples)
    grid = np.linspace(0.02, 6.0, 300)
    joint = []
    learner = gaussian_learner(1.0)
    for variance in grid:
        learner.scaled_log_variances.assign([np.log(variance) / learner.scale_rate])
        (theta,) = adapted(learner, episode)
        prior = learner.prior().model["m"].model["m/kernel"]
        loss = 0.5 * np.sum((episode["support_y"] - theta.numpy()) ** 2, axis=(1, 2))
        # Within the support set the noise varies too, by a constant we leave out.
        joint.append(np.mean(loss - prior.log_prob(theta)))
    inner = [
        grid[i]
        for i in range(1, len(grid) - 1)
        if joint[i] < joint[i - 1] and joint[i] < joint[i + 1]
    ]
    s, n = true_variance, examples
    if s < 3 / n:
        assert inner == [] and np.argmin(joint) == 0
    else:
        expected = (s - 1 / n + ((s + 1 / n) * (s - 3 / n)) ** 0.5) / 2
        assert inner == pytest.approx([expected], abs=grid[1] - grid[0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
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
def test_arguments_are_checked(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        km.SigmaMAML(smooth.network(), **arguments)


def test_finetuning_takes_proximal_steps_to_the_mode():
    episode, _ = smooth.episode(tasks=1)
    x, y = episode["support_x"][0], episode["support_y"][0]
    settings = {"inner_rate": 0.3, "initial_scale": 0.5}
    none = km.SigmaMAML(smooth.network(), inner_steps=0, **settings)
    model = km.finetune(none, x, y)
    model.fit(x, y, epochs=3, batch_size=len(x), verbose=0)
    three = km.SigmaMAML(smooth.network(), inner_steps=3, **settings)
    for variable, value in zip(
        model.trainable_variables, adapted(three, episode), strict=True
    ):
        # Keras' fit brings NumPy arrays to float32.
        np.testing.assert_allclose(variable, value[0], atol=1e-6)


def test_any_optimizer_finds_the_same_mode():
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


def test_finetuning_leaves_frozen_layers_alone(tmp_path):
    episode, _ = smooth.episode(tasks=1)
    x, y = episode["support_x"][0], episode["support_y"][0]
    learner = km.SigmaMAML(smooth.network(), frozen=["conv", "norm"], **SETTINGS)
    model = km.finetune(learner, x, y)
    assert [v.path for v in model.trainable_variables] == ["head/kernel", "head/bias"]
    np.testing.assert_allclose(model(x), learner({**episode, "query_x": x[None]})[0])
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_allclose(model(x), loaded(x), rtol=1e-5)

    # A module that is part of a layer is held rather than frozen with it.
    learner = km.SigmaMAML(
        smooth.network(), modules="weight", frozen=["head/kernel"], **SETTINGS
    )
    model = km.finetune(learner, x, y)
    head = model.network.get_layer("head")  # the model is one of the prior too
    before = head.kernel.numpy()
    model.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_allclose(head.kernel, before, atol=1e-10)
    assert np.abs(head.bias - learner.network.get_layer("head").bias).max() > 1e-3


def test_modules_of_nested_networks_have_names_of_their_own(tmp_path):
    def learner(**options):
        block = keras.Sequential([keras.Input([3]), keras.layers.Dense(4, name="a")])
        head = keras.layers.Dense(2, name="head")
        network = keras.Sequential([keras.Input([3]), block, head])
        return km.SigmaMAML(network, "mse", **options)

    assert learner().modules == learner().modules == ["a", "head"]
    made = learner(frozen=["a"])
    made.save(tmp_path / "learner.keras")
    assert keras.models.load_model(tmp_path / "learner.keras").frozen == ("a",)
    assert learner(modules="weight").modules[0] == "a/kernel"
    # A file of older commits names modules as it did.
    old = ["sequential_27/a", "sequential_27/a", "head", "head"]
    config = {**learner().get_config(), "modules": old, "frozen": ["sequential_27/a"]}
    assert km.SigmaMAML.from_config(config).frozen == ("sequential_27/a",)


def diverging(kind):
    """A learner, a support set, and an optimizer that diverges on it."""
    random = np.random.RandomState(0)
    x = random.normal(size=[6, 3]).astype("float32")
    if kind == "prior":
        y = random.normal(size=[6, 2]).astype("float32")
        network = km.networks.mlp((3,), 2, (5,))
        return km.SigmaMAML(network, "mse", initial_scale=0.01), x, y
    # A distance from a prototype so far away is infinite, whatever the weights are.
    return km.ProtoNet(km.networks.mlp((3,), 4, (5,))), x, np.arange(6) % 3


@pytest.mark.parametrize("kind", ["prior", "state"])
def test_finetuning_that_diverges_ends_in_a_sentence(kind, tmp_path):
    learner, x, y = diverging(kind)
    model = km.finetune(learner, x, y, keras.optimizers.SGD(1e20))
    with pytest.raises(ValueError) as info:
        model.fit(x, y, epochs=5, verbose=0)
    assert re.fullmatch(
        r"expected a loss that stays finite, got (nan|inf) in epoch [2-5]: make the "
        r"model anew with a lower learning rate\.",
        str(info.value),
    )
    # One that does not returns Keras' history.
    model = km.finetune(learner, x, y, keras.optimizers.SGD(1e-6))
    assert len(model.fit(x, y, epochs=2, verbose=0).history["loss"]) == 2

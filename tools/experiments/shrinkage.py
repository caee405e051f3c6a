"""Synthetic experiments of the shrinkage paper: risk by adaptation step.

    python tools/experiments/shrinkage.py --experiment=1 --out=runs/shrinkage1

Each method meta-trains on the same replayed tasks and is scored on the same test tasks
by the analytic expectation of its negative log-likelihood. The results are a table, a
picture and a CSV file. The same command resumes an interrupted run.
"""

import dataclasses
import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.figure
import numpy as np
import results
import tensorflow as tf
from absl import flags
from matplotlib import ticker
from results import FLAGS

import keras_meta as km
from keras_meta import episodes, metrics, plots
from keras_meta.zoo import training

TEST_SEED = 2_000_000


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Data `theta ~ N(phi, diag(sigma^2))`, `y ~ N(mu(theta), diag(xi^2))`.

    Attributes:
        phi: mean of every theta.
        sigma: scales of the M thetas.
        xi: noise scales of the D dimensions of y.
        examples: N, the number of support examples of a task.
        steps: number of steps of the longest adaptation, at which scales are learned.
        meta_steps: meta-steps of each method.
        rate: inner rate, just below 2 divided by the largest curvature.
        mean: `mu`, a function from a list of M scalars to a list of D scalars.
        floors: `{name: risk}`, reference values.
    """

    phi: float
    sigma: tuple
    xi: tuple
    examples: int
    steps: int
    meta_steps: int
    rate: float
    mean: object
    floors: dict

    def sample(self, seed):
        """Returns `mu(theta)`, support examples and query examples of one task."""
        seeds = tf.unstack(tf.random.split(seed, 2))
        theta = tf.random.stateless_normal([len(self.sigma)], seeds[0])
        mean = tf.stack(self.mean(tf.unstack(self.phi + self.sigma * theta)))
        shape = [2 * self.examples, len(self.xi)]
        y = mean + self.xi * tf.random.stateless_normal(shape, seeds[1])
        return mean, y[: self.examples], y[self.examples :]

    def episodes(self, start=0):
        """Returns training episodes; the data have no input, so x is 1."""

        def draw(seed):
            _, support_y, query_y = self.sample(seed)
            x = tf.ones([self.examples, 1])
            return {"support_x": x, "support_y": support_y, "query_x": x}, query_y

        return episodes.stream(draw, FLAGS.seed, start)

    def test_episodes(self):
        """Returns test episodes of one query, whose target is the mean of y."""

        def draw(seed):
            mean, support_y, _ = self.sample(seed)
            x = tf.ones([self.examples, 1])
            episode = {"support_x": x, "support_y": support_y, "query_x": x[:1]}
            return episode, mean[None]

        return episodes.stream(draw, TEST_SEED, 0)

    def exact_risk(self, scales):
        """Returns the risk of the MAP estimate for these scales and a linear `mu`.

        `D/2 + tr(R^-1 E[(mu - mu_hat)(mu - mu_hat)']) / 2` in closed form. The scales
        may differ from the true scales; infinite scales mean maximum likelihood.
        """
        basis = np.eye(len(self.sigma))
        design = np.array([self.mean(list(row)) for row in basis]).T  # [D, M]
        noise = np.diag(1 / np.square(self.xi))
        precision = design.T @ noise @ design
        prior = np.diag(1 / np.square(np.asarray(scales, float)))
        inverse = np.linalg.inv(self.examples * precision + prior)
        # theta_hat - theta = inverse (A' R^-1 sum of noise - prior (theta - phi))
        error = inverse @ (
            self.examples * precision + prior @ np.diag(np.square(self.sigma)) @ prior
        )
        error = error @ inverse
        return len(self.xi) / 2 + np.trace(noise @ design @ error @ design.T) / 2


def linear(thetas):
    """`[I_M, 1_M / sqrt(M)]^T theta`."""
    return [*thetas, sum(thetas) / math.sqrt(len(thetas))]


def spiral(thetas):
    """Rotates each pair of thetas by pi/5 times the pair's length."""
    rotated = []
    for x, y in zip(thetas[::2], thetas[1::2], strict=True):
        # The small constant keeps the slope finite at the origin.
        angle = math.pi / 5 * (x * x + y * y + 1e-12) ** 0.5
        cosine, sine = keras.ops.cos(angle), keras.ops.sin(angle)
        rotated += [cosine * x - sine * y, sine * x + cosine * y]
    return rotated


EXPERIMENTS = {
    "1": Experiment(
        phi=1.0,
        sigma=(8.0,) * 4 + (2.0,) * 4,
        xi=(8.0,) * 4 + (5.0,) * 4 + (1.0,),
        examples=4,
        steps=200,
        meta_steps=1500,
        rate=1.4,
        mean=linear,
        floors={"true scales": 5.127, "one scale": 5.322, "no prior": 5.500},
    ),
    "2": Experiment(
        phi=2.0,
        sigma=(4.0,) * 8 + (8.0,) * 2,
        xi=(10.0,) * 10,
        examples=5,
        steps=1000,
        meta_steps=500,
        rate=1.0,
        mean=spiral,
        floors={"true scales (simulated)": 5.71, "no prior (simulated)": 6.04},
    ),
}


@keras.saving.register_keras_serializable("shrinkage")
class Mean(keras.layers.Layer):
    """`mu(theta)` for each example; every theta is a separate weight."""

    def __init__(self, experiment, **kwargs):
        super().__init__(**kwargs)
        self.experiment = experiment

    def build(self, input_shape):
        count = len(EXPERIMENTS[self.experiment].sigma)
        # Random, because the slope of a spiral is undefined at the origin.
        self.thetas = [
            self.add_weight(shape=[], initializer="random_normal", name=f"theta{i}")
            for i in range(count)
        ]

    def call(self, x):
        means = EXPERIMENTS[self.experiment].mean(
            [theta * 1.0 for theta in self.thetas]
        )
        rows = np.eye(len(means), dtype="float32")
        return x * sum(mean * row for mean, row in zip(means, rows, strict=True))

    def get_config(self):
        return {**super().get_config(), "experiment": self.experiment}


@keras.saving.register_keras_serializable("shrinkage")
class Likelihood(keras.losses.Loss):
    """`sum_d (y_d - mu_d)^2 / (2 xi_d^2)`, averaged over examples."""

    def __init__(self, xi, **kwargs):
        super().__init__(**kwargs)
        self.xi = xi

    def call(self, y_true, y_pred):
        residuals = (y_true - y_pred) / np.asarray(self.xi, "float32")
        return keras.ops.sum(keras.ops.square(residuals), axis=-1) / 2

    def get_config(self):
        return {**super().get_config(), "xi": list(self.xi)}


@keras.saving.register_keras_serializable("shrinkage")
class Risk(metrics.EpisodeMetric):
    """The loss of a task's queries, plus D/2: the targets are means without noise."""

    direction = "down"

    def __init__(self, xi, interval=False, name="nll", dtype=None):
        super().__init__(interval=interval, name=name, dtype=dtype)
        self.xi = xi

    def query_scores(self, y_true, y_pred):
        residuals = (y_true - y_pred) / np.asarray(self.xi, "float32")
        squares = keras.ops.sum(keras.ops.square(residuals), axis=-1)
        return squares / 2 + len(self.xi) / 2

    def get_config(self):
        return {**super().get_config(), "xi": list(self.xi)}


def one_group(path):
    return "all"


# Methods without a prior train with few steps, where early stopping regularizes them.
SHORT = 10
METHODS = {
    "Reptile": (km.Reptile, {"inner_steps": SHORT, "joint": False}),
    "MAML": (km.MAML, {"inner_steps": SHORT}),
    "Meta-SGD by module": (km.MetaSGD, {"inner_steps": SHORT}),
    "sigma-MAML shared": (km.SigmaMAML, {"modules": one_group}),
    "sigma-MAML by module": (km.SigmaMAML, {"modules": "weight"}),
    "sigma-iMAML by module": (km.SigmaIMAML, {"modules": "weight"}),
    "sigma-Reptile by module": (km.SigmaReptile, {"modules": "weight"}),
}


def define_flags():
    flags.DEFINE_enum("experiment", "1", ["1", "2"], "1: linear; 2: spiral.")
    flags.DEFINE_string(
        "out", None, "Folder for the results; by default runs/shrinkage<n>."
    )
    flags.DEFINE_list("methods", None, "Methods to train: names in the table.")
    flags.DEFINE_integer(
        "meta_steps", None, "Meta-steps; by default the experiment's.", lower_bound=1
    )
    flags.DEFINE_integer("tasks", 100, "Tasks in a meta-step.", lower_bound=1)
    flags.DEFINE_integer(
        "test_tasks", 5000, "Test tasks for each method.", lower_bound=2
    )
    flags.DEFINE_integer("seed", 0, "Seed of the training tasks.")


def meta_steps():
    return FLAGS.meta_steps or EXPERIMENTS[FLAGS.experiment].meta_steps


def build_learner(method):
    """Builds the compiled learner of a method."""
    experiment = EXPERIMENTS[FLAGS.experiment]
    keras.utils.set_random_seed(FLAGS.seed)
    inputs = keras.Input([1])
    network = keras.Model(inputs, Mean(FLAGS.experiment)(inputs))
    build, arguments = METHODS[method]
    if issubclass(build, km.learners.shrinkage.Shrinkage):
        arguments = {
            "inner_steps": experiment.steps,
            "initial_scale": 4.0,
            "scale_rate": 1.0,
            **arguments,
        }
    learner = build(
        network,
        Likelihood(experiment.xi),
        inner_rate=experiment.rate,
        vectorize=True,
        **arguments,
    )
    rate = keras.optimizers.schedules.CosineDecay(0.03, meta_steps())
    learner.compile(
        keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.99),
        metrics=risks(experiment),
    )
    learner.optimizer.build(learner.trainable_variables)
    return learner


def risks(experiment):
    """Returns Keras metrics: the mean risk and its 95% interval."""
    return [
        Risk(experiment.xi),
        Risk(experiment.xi, interval=True, name="nll_95"),
    ]


def curve(learner, experiment):
    """Returns `[(steps, risk, half-width)]` on the test tasks."""
    tests = experiment.test_episodes().take(FLAGS.test_tasks).batch(1000).cache()
    rows = []
    longest = math.log10(experiment.steps)
    for steps in sorted({0, *np.logspace(0, longest, 12).round().astype(int)}):
        learner.evaluation_steps = int(steps)
        risk = learner.evaluate(tests, verbose=0, return_dict=True)
        rows.append((int(steps), risk["nll"], risk["nll_95"]))
    return rows


def draw(curves, experiment):
    """Draws risk by adaptation step; dashed lines are floors."""
    figure = matplotlib.figure.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for index, (method, rows) in enumerate(curves.items()):
        steps, risks, widths = np.array(rows).T
        # Some methods coincide: the gaps of a dashed line show the lines below it.
        style = (2 * index, (5, index)) if index else "-"
        plots.band(axes, steps, risks, widths, method, linestyle=style)
    left_limit = experiment.steps / 50  # all earlier risks are far higher
    for name, risk in experiment.floors.items():
        axes.axhline(risk, color="grey", linestyle="--", linewidth=0.8)
        axes.annotate(name, (left_limit, risk), fontsize=8, color="grey", va="bottom")
    lowest_floor = min(experiment.floors.values())
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlim(left=left_limit, right=experiment.steps)
    axes.set_ylim(lowest_floor - 0.15, max(experiment.floors.values()) + 0.5)
    axes.set_xlabel("adaptation steps")
    axes.set_ylabel("expected negative log-likelihood")
    axes.legend(fontsize=8)
    return figure


def train(method, experiment, out):
    """Trains a method, or resumes its training; returns the learner."""
    validation = experiment.test_episodes().skip(FLAGS.test_tasks).take(1000).batch(500)
    folder = out / method.replace(" ", "_")
    training.fit(
        lambda: (lambda: build_learner(method), experiment.episodes, validation),
        folder,
        {
            "steps": meta_steps(),
            "seed": FLAGS.seed,
            "method": method,
            "experiment": FLAGS.experiment,
        },
        FLAGS.tasks,
        min(100, meta_steps()),
        "nll",
    )
    learner = keras.models.load_model(folder / "best.keras", compile=False)
    learner.compile(metrics=risks(experiment))
    return learner


def show(curves, scales, experiment):
    rows = []
    for method, points in curves.items():
        step, best, width = min(points, key=lambda point: point[1])
        _, *last = points[-1]
        cells = f"{results.cell(best, width, 3)} ({step})", results.cell(*last, 3)
        rows.append([method, *cells, scales.get(method, "")])
    for name, risk in experiment.floors.items():
        rows.append([f"floor: {name}", f"{risk:.3f}", f"{risk:.3f}", ""])
    results.show(
        f"Experiment {FLAGS.experiment}: expected NLL, {FLAGS.test_tasks} test tasks "
        f"(seed {TEST_SEED}), training seed {FLAGS.seed}, 95% intervals",
        ["method", "lowest (at step)", f"at {experiment.steps}", "scales"],
        rows,
    )


def main(out):
    experiment = EXPERIMENTS[FLAGS.experiment]
    curves, scales = {}, {}
    for method in results.chosen("methods", METHODS):
        print(f"{method}:", flush=True)
        learner = train(method, experiment, out)
        curves[method] = curve(learner, experiment)
        if isinstance(learner, km.learners.shrinkage.Shrinkage):
            scales[method] = [round(s, 2) for s in learner.scales().values()]
    show(curves, scales, experiment)
    rows = [
        {"method": method, "steps": steps, "nll": risk, "nll_95": width}
        for method, points in curves.items()
        for steps, risk, width in points
    ]
    results.write_csv(out / "curves.csv", rows)
    results.write_picture(out / "curves.png", draw(curves, experiment))


if __name__ == "__main__":
    define_flags()
    results.start(main, folder=lambda: FLAGS.out or f"runs/shrinkage{FLAGS.experiment}")

"""The experiments' own arithmetic, and what they share."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import results
import shrinkage
import tensorflow as tf
from absl import flags

from keras_meta import episodes

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_closed_forms_are_the_papers():
    # papers.md, worked out there on its own.
    experiment = shrinkage.EXPERIMENTS["1"]
    assert experiment.exact_risk(experiment.sigma) == pytest.approx(5.127, abs=5e-4)
    assert experiment.exact_risk([6.21] * 8) == pytest.approx(5.322, abs=5e-4)
    assert experiment.exact_risk([1e6] * 8) == pytest.approx(5.500, abs=5e-4)


@pytest.mark.parametrize("name", shrinkage.EXPERIMENTS)
def test_samples_have_the_stated_noise(name):
    experiment = shrinkage.EXPERIMENTS[name]

    def draw(seed):
        mean, support_y, query_y = experiment.sample(seed)
        return mean, tf.concat([support_y, query_y], 0) - mean

    means, noise = next(iter(episodes.stream(draw, 0, 0).batch(2000)))
    # 16,000 draws a dimension and more: the standard error of a scale is 0.6%.
    np.testing.assert_allclose(noise.numpy().std((0, 1)), experiment.xi, rtol=0.03)
    if name == "1":
        spread = means.numpy()[:, :8].std(0)
        np.testing.assert_allclose(spread, experiment.sigma, rtol=0.08)
    else:  # turning a pair keeps its length
        lengths = np.square(means.numpy()).mean(0).reshape(5, 2).sum(1)
        expected = 2 * (2.0**2 + np.square(experiment.sigma[::2]))
        np.testing.assert_allclose(lengths, expected, rtol=0.1)


def test_a_unit_is_computed_once(tmp_path):
    computed = []

    def compute():
        computed.append(1)
        return {"x": [1.5, 2.0]}

    for _ in range(2):
        assert results.stored(tmp_path / "a.json", compute) == {"x": [1.5, 2.0]}
    for _ in range(2):
        arrays = results.stored_arrays(tmp_path / "a.npz", compute)
        assert arrays["x"].tolist() == [1.5, 2.0]
    assert len(computed) == 2
    assert results.read_json(tmp_path / "none.json", []) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.npz"]


@pytest.mark.slow  # each imports TensorFlow
@pytest.mark.parametrize(
    "name",
    [
        *("completion", "finetuning", "functions", "modularity", "presentations"),
        *("processes", "shrinkage", "long_adaptation", "cross_domain"),
        "imagenet_weights",
    ],
)
def test_an_experiment_states_its_flags(name):
    command = [sys.executable, f"tools/experiments/{name}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "--out" in done.stdout and done.returncode == 1, done.stderr


def test_an_unknown_method_ends_an_experiment(monkeypatch):
    values = flags.FlagValues()
    flags.DEFINE_list("methods", None, "", flag_values=values)
    values(["shrinkage"])
    monkeypatch.setattr(results, "FLAGS", values)
    monkeypatch.setattr(sys, "argv", ["tools/experiments/shrinkage.py"])
    assert results.chosen("methods", {"MAML": 1, "Reptile": 2}) == ["MAML", "Reptile"]
    values.methods = ["Reptile"]
    assert results.chosen("methods", {"MAML": 1, "Reptile": 2}) == ["Reptile"]
    values.methods = ["SGD"]
    with pytest.raises(SystemExit) as end:
        results.chosen("methods", {"MAML": 1, "Reptile": 2})
    assert end.value.code == (
        "shrinkage: error: expected methods of ['MAML', 'Reptile'], got ['SGD']."
    )

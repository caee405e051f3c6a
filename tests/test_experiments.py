"""Tests of the experiments' formulas and of their shared functions."""

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


def test_closed_forms_match_the_papers_values():
    # papers.md derives these values independently.
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
    # At least 16,000 draws per dimension: the standard error of a scale is 0.6%.
    np.testing.assert_allclose(noise.numpy().std((0, 1)), experiment.xi, rtol=0.03)
    if name == "1":
        spread = means.numpy()[:, :8].std(0)
        np.testing.assert_allclose(spread, experiment.sigma, rtol=0.08)
    else:  # rotating a pair preserves its length
        lengths = np.square(means.numpy()).mean(0).reshape(5, 2).sum(1)
        expected = 2 * (2.0**2 + np.square(experiment.sigma[::2]))
        np.testing.assert_allclose(lengths, expected, rtol=0.1)


def test_a_stored_result_is_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"x": [1.5, 2.0]}

    for _ in range(2):
        assert results.stored(tmp_path / "a.json", compute) == {"x": [1.5, 2.0]}
    for _ in range(2):
        arrays = results.stored_arrays(tmp_path / "a.npz", compute)
        assert arrays["x"].tolist() == [1.5, 2.0]
    assert len(calls) == 2
    assert results.read_json(tmp_path / "none.json", []) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.npz"]


@pytest.mark.slow  # each run imports TensorFlow
@pytest.mark.parametrize(
    "name",
    [
        *("completion", "finetuning", "functions", "modularity", "presentations"),
        *("processes", "shrinkage", "long_adaptation", "cross_domain"),
        "imagenet_weights",
    ],
)
def test_help_lists_the_flags(name):
    command = [sys.executable, f"tools/experiments/{name}.py", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "--out" in process.stdout and process.returncode == 1, process.stderr


def test_an_unknown_method_exits(monkeypatch):
    flag_values = flags.FlagValues()
    flags.DEFINE_list("methods", None, "", flag_values=flag_values)
    flag_values(["shrinkage"])
    monkeypatch.setattr(results, "FLAGS", flag_values)
    monkeypatch.setattr(sys, "argv", ["tools/experiments/shrinkage.py"])
    assert results.chosen("methods", {"MAML": 1, "Reptile": 2}) == ["MAML", "Reptile"]
    flag_values.methods = ["Reptile"]
    assert results.chosen("methods", {"MAML": 1, "Reptile": 2}) == ["Reptile"]
    flag_values.methods = ["SGD"]
    with pytest.raises(SystemExit) as exit_info:
        results.chosen("methods", {"MAML": 1, "Reptile": 2})
    assert exit_info.value.code == (
        "shrinkage: error: expected methods of ['MAML', 'Reptile'], got ['SGD']."
    )

"""Parts of meta-training; `test_zoo` runs the whole."""

import numpy as np
import tensorflow as tf

import keras_meta as km
from zoo import training


def test_a_warm_start_copies_what_the_learners_share():
    trained = km.SigmaMAML(km.networks.mlp(outputs=3), "mse", initial_scale=0.5)
    same = km.SigmaMAML(km.networks.mlp(outputs=3), "mse")
    assert training.transfer(trained, same) == []
    for a, b in zip(same.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    other = km.MetaSGD(km.networks.mlp(outputs=4), "mse", inner_rate=0.3)
    body = len(other.network.weights) - 2
    new = training.transfer(trained, other)
    assert {"head/kernel", "head/bias"} <= set(new)
    assert len(new) == len(other.rates) + 2
    pairs = zip(other.network.weights[:body], trained.network.weights, strict=False)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)
    assert all((rate.numpy() == np.float32(0.3)).all() for rate in other.rates)


def test_a_signal_is_answered_while_a_graph_is_traced(tmp_path, capsys):
    learner = km.MAML(km.networks.mlp(), "mse")
    learner.compile("sgd")
    run = training.Run(tmp_path, None, "mse", 20)
    run.set_model(learner)
    run.set_params({"steps": 20})
    run.on_train_begin()

    @tf.function
    def traced():
        run._stop(2, None)
        return tf.constant(1)

    try:
        traced()
    finally:
        run.on_train_end()
    assert run.stop_signal
    assert "stopping at the next checkpoint" in capsys.readouterr().out

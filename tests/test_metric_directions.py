"""Keras' callbacks infer the direction of each keras-meta metric."""

import keras
import numpy as np
import pytest

import keras_meta as km
from keras_meta import keras_private, metrics


class CustomMetric(keras.metrics.Mean):
    """A metric without a direction, unless the constructor sets one."""

    def __init__(self, direction=None):
        super().__init__(name="worth")
        keras_private.set_direction(self, direction)

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_pred)


def callbacks(monitor, tmp_path, mode="auto"):
    return [
        keras.callbacks.EarlyStopping(monitor, mode=mode),
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / "best.weights.h5"),
            monitor,
            save_best_only=True,
            save_weights_only=True,
            mode=mode,
        ),
        keras.callbacks.ReduceLROnPlateau(monitor, mode=mode),
    ]


def after_epochs(model, callback, metric_values):
    """Runs the callback over epochs with these values of its metric; returns it."""
    callback.set_model(model)
    callback.set_params({"epochs": len(metric_values)})
    callback.on_train_begin()
    for epoch, metric_value in enumerate(metric_values):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {callback.monitor: metric_value, "loss": 0.0})
    return callback


def compiled_model(*model_metrics):
    """Returns a small model with these metrics, evaluated once."""
    model = keras.Sequential([keras.Input([4, 3]), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=list(model_metrics))
    model.evaluate(np.ones([2, 4, 3]), np.zeros([2, 4], "int32"), verbose=0)
    return model


def test_keras_still_needs_a_direction(tmp_path):
    # If this fails, Keras infers directions differently: remove `set_direction`.
    model = compiled_model(CustomMetric())
    for callback in callbacks("val_worth", tmp_path):
        with pytest.raises(ValueError, match="mode"):
            after_epochs(model, callback, [1.0])


@pytest.mark.parametrize("direction", ["up", "down"])
def test_keras_still_reads_the_direction(direction, tmp_path):
    model = compiled_model(CustomMetric(direction))
    for callback in callbacks("val_worth", tmp_path):
        after_epochs(model, callback, [1.0, 3.0, 2.0])
        assert callback.best == {"up": 3.0, "down": 1.0}[direction]


def test_unknown_direction_is_rejected():
    with pytest.raises(ValueError, match="^expected direction to be 'up', 'down' or "):
        keras_private.set_direction(CustomMetric(), "sideways")


@pytest.mark.parametrize(
    "metric, best",
    [
        (metrics.EpisodeAccuracy(), 3.0),
        (metrics.EpisodeAccuracy(interval=True, name="accuracy_95"), 1.0),
        (metrics.PresentationAccuracy(2), 3.0),
        (metrics.PresentationAccuracy(2, interval=True, name="second_95"), 1.0),
        (metrics.CalibrationError(), 1.0),
        (
            metrics.EpisodeAccuracy.from_config(metrics.EpisodeAccuracy().get_config()),
            3.0,
        ),
    ],
)
def test_callbacks_infer_the_direction_of_each_metric(metric, best, tmp_path):
    model = compiled_model(metric)
    for callback in callbacks(f"val_{metric.name}", tmp_path):
        after_epochs(model, callback, [1.0, 3.0, 2.0])
        assert callback.best == best


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["mse", "mse_95", "nll", "nll_95"])
def test_callbacks_of_a_regression_learner(name, tmp_path):
    learner = km.CNP(km.networks.mlp((2,), 4, (4,)), km.networks.mlp((5,), 2, (4,)))
    learner.compile("adam")
    data = km.tasks.sinusoid().episodes().batch(2).take(1)
    history = learner.fit(
        data,
        validation_data=data,
        epochs=2,
        verbose=0,
        callbacks=callbacks(f"val_{name}", tmp_path),
    ).history
    assert f"val_{name}" in history
    for callback in callbacks(f"val_{name}", tmp_path):
        after_epochs(learner, callback, [1.0, 3.0, 0.5])
        assert callback.best == 0.5


def test_custom_metric_sets_its_direction_by_an_attribute(tmp_path):
    class Margin(metrics.EpisodeMetric):
        direction = "up"

        def query_scores(self, y_true, y_pred):
            return y_pred[..., 0]

    class Undirected(metrics.EpisodeMetric):
        def query_scores(self, y_true, y_pred):
            return y_pred[..., 0]

    model = compiled_model(Margin(name="margin"), Undirected(name="undirected"))
    for callback in callbacks("val_margin", tmp_path):
        assert after_epochs(model, callback, [1.0, 3.0, 2.0]).best == 3.0
    for callback in callbacks("val_undirected", tmp_path):
        with pytest.raises(ValueError, match="mode"):
            after_epochs(model, callback, [1.0])

"""A learner as a SavedModel that adapts inside the request."""

import os
import pathlib
import shutil
import tempfile
import warnings

import tensorflow as tf

from keras_meta import learner as learner_module


def export(learner, base, version=None):
    """Writes `base/<version>/`, a SavedModel as TensorFlow Serving lays them out.

    Its `serving_default` signature learns and answers in one request: `{support_x
    [T, S, ...], support_y [T, S] or [T, S, d_y], query_x [T, Q, ...]}` ->
    `{probabilities [T, Q, N]}` for classification, `{mean [T, Q, d_y]}` for regression
    with `scale` beside it where the learner gives one; float32, images as
    `learner.preprocess` gives them, labels int32. T, S and Q are free. T leads because
    a server joins requests along the first axis: each task in a batch keeps to its own
    support set. The directory appears whole or not at all.

    Args:
        learner: a `Learner`.
        base: folder of the model's versions, made if need be.
        version: a positive integer; the next free one by default.

    Returns:
        The `pathlib.Path` of the version's directory.

    Raises:
        ValueError: not a learner, or a version that is no positive integer.
        FileExistsError: the version is there already; it is left as it is.
    """
    if not isinstance(learner, learner_module.Learner):
        raise ValueError(f"expected a Learner, got {type(learner).__name__}.")
    base = pathlib.Path(base)
    if version is None:
        taken = [int(p.name) for p in base.glob("*") if p.name.isdigit()]
        version = max(taken, default=0) + 1
    if version != int(version) or version < 1:
        raise ValueError(f"expected version to be an integer >= 1, got {version}.")
    target = base / str(version)
    if target.exists():
        raise FileExistsError(f"expected a free version, {target} is there already.")
    if learner.normalization == "transductive":
        warnings.warn(
            "exporting a learner with transductive normalization: the answer to a "
            "query depends on the other queries of its request.",
            stacklevel=2,
        )
    base.mkdir(parents=True, exist_ok=True)
    draft = pathlib.Path(tempfile.mkdtemp(prefix=".draft-", dir=base))
    try:
        module = _module(learner)
        tf.saved_model.save(
            module, str(draft), signatures={"serving_default": module.answer}
        )
        os.chmod(draft, 0o755)  # mkdtemp's own mode shuts a server's user out
        os.rename(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return target


def _module(learner):
    """A `tf.Module` that holds the learner's variables and its signatures."""
    module = tf.Module()
    module.held = [variable.value for variable in learner.variables]

    @tf.function(
        input_signature=[
            learner.x_spec("support_x"),
            learner.y_spec("support_y"),
            learner.x_spec("query_x"),
        ],
        autograph=False,
    )
    def answer(support_x, support_y, query_x):
        outputs = learner.infer(learner.adapt(support_x, support_y), query_x)
        if learner.classification:
            return {"probabilities": tf.nn.softmax(outputs)}
        if isinstance(outputs, tuple):
            return dict(zip(("mean", "scale"), outputs, strict=True))
        return {"mean": outputs}

    module.answer = answer
    return module

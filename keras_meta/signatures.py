"""The signatures of exported models: concrete functions by name."""

import keras
import tensorflow as tf

from keras_meta import logits, losses


def learner_signatures(learner):
    """Returns `{name: concrete function}` of a learner, as `export` lists them.

    All share one graph of `adapt`.
    """
    specs = [
        learner.x_spec("support_x"),
        learner.y_spec("support_y"),
        learner.x_spec("query_x"),
    ]

    def adapt(support_x, support_y):
        return learner.adapt_traced(support_x, support_y)[0]

    def infer(state, query_x):
        return learner.infer_traced(state, query_x)[0]

    def predict_images(support_x, support_y, query_x):
        support_x, query_x = prepare.pair(support_x, query_x)
        return predict(support_x, support_y, query_x)

    def predict_bytes(support_x, support_y, query_x):
        support_x, query_x = prepare.decode(support_x), prepare.decode(query_x)
        return predict_images(support_x, support_y, query_x)

    predict, functions = _stages(learner, adapt, infer, specs)
    names = "serving_default", "adapt", "infer"
    signatures = dict(zip(names, functions, strict=True))
    prepare = image_preprocess(learner)
    if prepare is not None:
        for name, call, shape, dtype in (
            ("serving_images", predict_images, [None] * 5, tf.uint8),
            ("serving_bytes", predict_bytes, [None, None], tf.string),
        ):
            x = [tf.TensorSpec(shape, dtype, side) for side in ("support_x", "query_x")]
            signatures[name] = _concrete(call, [*x, specs[1]])
    if learner.point_units is not None:
        signatures |= _point_signatures(learner, specs)
    return signatures


def model_signatures(model, temperature=1.0):
    """Returns `{name: concrete function}` of a model that `finetune` returned.

    Args:
        model: the model.
        temperature: divisor of the logits of a classifier.

    Raises:
        ValueError: a temperature for regression, or outside its range.
    """
    classification = losses.is_classification(model.loss)
    logits.check_temperature(temperature, classification)
    shape = getattr(model, "example_shape", None) or model.input_shape[1:]
    floating = (v.dtype for v in model.variables if "float" in v.dtype)
    spec = tf.TensorSpec([None, *shape], next(floating), "x")

    def predict(x):
        outputs = model(x, training=False)
        if isinstance(model.loss, losses.GaussianNLL):
            outputs = tuple(tf.unstack(outputs, axis=-1))
        if classification:
            outputs = outputs / temperature
        return _predictions(classification, outputs)

    return {"serving_default": _concrete(predict, [spec])}


def inputs(function):
    """Returns `{name: TensorSpec}` of a concrete function."""
    positional, named = function.structured_input_signature
    return {spec.name: spec for spec in (*positional, *named.values())}


def image_preprocess(model):
    """Returns the `preprocess` that converts images to x, or None if x is not an image.

    Image completion has a `preprocess`, but its x are positions of pixels.
    """
    prepare = getattr(model, "preprocess", None)
    if prepare is None:
        return None
    if tf.TensorShape(model.example_shape).is_compatible_with(prepare.shape):
        return prepare
    return None


def _predictions(classification, outputs):
    """Returns outputs of `infer` by name."""
    if classification:
        classes = tf.argmax(outputs, axis=-1, output_type=tf.int32)
        return {"probabilities": tf.nn.softmax(outputs), "classes": classes}
    if isinstance(outputs, tuple):
        return dict(zip(("mean", "scale"), outputs, strict=True))
    return {"mean": outputs}


def _concrete(call, specs):
    """Returns the concrete function of `call(**inputs)`, whose inputs have names."""
    specs = {spec.name: spec for spec in specs}
    return tf.function(call, autograph=False).get_concrete_function(**specs)


def _stages(learner, adapt, infer, specs):
    """Returns the functions that adapt and infer in one request, and separately.

    Args:
        learner: the exported learner.
        adapt: `(support_x, support_y) -> state`.
        infer: `(state, query_x) -> outputs`.
        specs: TensorSpecs of support_x, support_y and query_x.

    Returns:
        `(predict, functions)`: `(support_x, support_y, query_x) -> predictions`, to be
        traced in other functions; and the concrete functions of `predict`, of `adapt`
        and of `infer`. Names of the state's tensors are their paths in the state.
    """
    structure = _concrete(adapt, specs[:2]).structured_outputs
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    names = ["_".join(map(str, path)) for path in paths]

    def named_adapt(support_x, support_y):
        leaves = tf.nest.flatten(adapt(support_x, support_y))
        return dict(zip(names, leaves, strict=True))

    def named_infer(query_x, **leaves):
        state = [leaves[name] for name in names]
        state = tf.nest.pack_sequence_as(structure, state)
        return _predictions(learner.classification, infer(state, query_x))

    def predict(support_x, support_y, query_x):
        return named_infer(query_x, **named_adapt(support_x, support_y))

    leaves = [
        tf.TensorSpec(leaf.shape, leaf.dtype, name)
        for name, leaf in zip(names, tf.nest.flatten(structure), strict=True)
    ]
    return predict, [
        _concrete(predict, specs),
        _concrete(named_adapt, specs[:2]),
        _concrete(named_infer, [*leaves, specs[2]]),
    ]


def _point_signatures(learner, specs):
    """Returns the signatures that take float64 points in their own units."""
    units = learner.point_units

    def adapt(support_x, support_y):
        x, y, scaling = units.scale_support(learner, support_x, support_y)
        return {"state": learner.adapt_traced(x, y)[0], **scaling}

    def infer(state, query_x):
        x = units.scale_query(learner, state, query_x)
        return units.unscale(state, learner.infer_traced(state["state"], x)[0])

    specs = [tf.TensorSpec(spec.shape, tf.float64, spec.name) for spec in specs]
    _, functions = _stages(learner, adapt, infer, specs)
    names = "serving_points", "adapt_points", "infer_points"
    return dict(zip(names, functions, strict=True))

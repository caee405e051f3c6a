"""Peak memory of meta-training by number of inner steps."""

import rich.progress

from benchmarks import harness, problems

LEARNERS = ("MAML", "FOMAML", "Reptile", "IMAML", "SigmaIMAML", "SigmaReptile")
FEW, MANY = 5, 100  # inner steps
TASKS = 4


def measure(learner, steps):
    """Returns the peak MB of this process after three meta-gradients."""
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure()
    network = km.networks.conv4((28, 28, 1), outputs=problems.WAYS)
    meta_learner = getattr(km, learner)(network, inner_rate=0.1, inner_steps=steps)
    batch, query_y = tf.nest.map_structure(tf.constant, problems.images(TASKS))
    gradient = tf.function(lambda: meta_learner.meta_gradient(batch, query_y)[:2])
    for _ in range(3):
        gradient()
    return harness.peak_memory()


def table():
    rows = []
    for learner in rich.progress.track(LEARNERS, "measuring"):
        few_steps_mb, many_steps_mb = (
            harness.in_process(measure, learner=learner, steps=steps)
            for steps in (FEW, MANY)
        )
        rows.append(
            {
                "learner": learner,
                f"MB at {FEW} steps": round(few_steps_mb),
                f"MB at {MANY} steps": round(many_steps_mb),
                "ratio": round(many_steps_mb / few_steps_mb, 3),
            }
        )
    title = f"Peak memory of a meta-training process, Conv-4 5w1s, {TASKS} tasks"
    return harness.Table(title, rows)

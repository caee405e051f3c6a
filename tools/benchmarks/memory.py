"""Peak memory of meta-training by number of inner steps."""

import rich.progress

from benchmarks import harness, problems

LEARNERS = ("MAML", "FOMAML", "Reptile", "IMAML", "SigmaIMAML", "SigmaReptile")
FEW, MANY = 5, 100  # inner steps
TASKS = 4


def measure(learner, steps):
    """Peak memory of this process in MB after three meta-gradients."""
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure()
    network = km.networks.conv4((28, 28, 1), outputs=problems.WAYS)
    built = getattr(km, learner)(network, inner_rate=0.1, inner_steps=steps)
    batch, query_y = tf.nest.map_structure(tf.constant, problems.images(TASKS))
    gradient = tf.function(lambda: built.meta_gradient(batch, query_y)[:2])
    for _ in range(3):
        gradient()
    return harness.peak_memory()


def table():
    rows = []
    for learner in rich.progress.track(LEARNERS, "measuring"):
        few, many = (
            harness.in_process(measure, learner=learner, steps=steps)
            for steps in (FEW, MANY)
        )
        rows.append(
            {
                "learner": learner,
                f"MB at {FEW} steps": round(few),
                f"MB at {MANY} steps": round(many),
                "ratio": round(many / few, 3),
            }
        )
    title = f"Peak memory of a meta-training process, Conv-4 5w1s, {TASKS} tasks"
    return harness.Table(title, rows)

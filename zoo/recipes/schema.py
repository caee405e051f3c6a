"""What a recipe holds. Importing this needs no TensorFlow."""

import collections.abc
import dataclasses

from keras_meta.zoo.recipes import protocols

# Defaults of `keras-meta train`: meta-steps between checkpoints, tasks of a validation.
EVERY = 500
VALIDATION_TASKS = 200


@dataclasses.dataclass(frozen=True)
class External:
    """Weights that Keras downloads on first use; the zoo stores none of them.

    Attributes:
        url: of the file.
        md5: of the file; Keras checks it. None where Keras checks none.
        licence: of the weights.
    """

    url: str
    md5: str | None
    licence: str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that `keras-meta train` needs to train an entry.

    Attributes:
        learner: a function that returns the untrained learner.
        task: draws its episodes: a `protocols.Classification`, `protocols.Supervised`
            or `protocols.Functions`.
        paper: of the algorithm.
        steps: meta-steps.
        tasks: tasks in a meta-step.
        rate: initial learning rate of the optimizer; a cosine decays it to zero.
        average: momentum of the moving average of the weights, which is what a run
            stores.
        warm_start: the entry whose weights training starts from, if any.
        adjust: a function that changes the learner in place after the warm start.
        optimizer: the name of the meta-optimizer.
        optimizer_settings: further arguments of the optimizer, if any.
        clip: gradients with a larger norm are scaled to this norm; None: no clipping.
        intra_op: threads inside an op; 2 where all tasks are one batch.
        dtype_policy: of Keras, in training. "mixed_bfloat16" computes convolutions and
            activations in bfloat16, which suits large networks; published weights are
            those of float32 layers.
        seed: of the weights and the episodes.
        pretraining: the recipe of the stage before this one, if any; this stage starts
            from the best weights of that one.
        external: where weights come from that are not trained here, see `External`.
    """

    learner: collections.abc.Callable
    task: protocols.Classification | protocols.Supervised | protocols.Functions
    paper: str
    steps: int
    tasks: int = 16
    rate: float = 1e-3
    average: float = 0.999
    warm_start: str | None = None
    adjust: collections.abc.Callable | None = None
    optimizer: str = "adam"
    optimizer_settings: dict | None = None
    clip: float | None = None
    intra_op: int = 1
    dtype_policy: str = "float32"
    seed: int = 0
    pretraining: "Recipe | None" = None
    external: External | None = None

    @property
    def stages(self):
        """The recipes to train one after another; the last one is this."""
        return (*(self.pretraining.stages if self.pretraining else ()), self)

    @property
    def protocol(self):
        """The episodes of all stages, in one sentence."""
        return "; pretraining on ".join(str(stage.task) for stage in self.stages[::-1])

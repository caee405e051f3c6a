"""The names that examples in docstrings use: `pytest --doctest-modules`."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def names(doctest_namespace):
    """Adds `km`, `tasks`, `tf`, `np`, and images of characters as `pool`, `episodes`.

    `pool` has 8 classes of 5 images, float32 `[28, 28, 1]`. `episodes` are 5-way
    1-shot with 2 queries of each class.
    """
    import numpy as np
    import tensorflow as tf

    import keras_meta as km

    prepare = km.ImagePreprocess(28, 28, 1)
    pool = km.tasks.glyphs(classes=8, drawings=5, prepare=prepare)
    doctest_namespace.update(
        km=km,
        tasks=km.tasks,
        tf=tf,
        np=np,
        pool=pool,
        episodes=pool.episodes(ways=5, shots=1, queries=2),
    )

"""Tests of streams: the parts of all workers contain the elements of the stream."""

import numpy as np
import pytest
import tensorflow as tf

from keras_meta import streams


def stream(start=5):
    """Returns a stream of `(index, noise)` with two random steps and a map."""

    def draw(seed):
        return seed[1], tf.random.stateless_uniform([2], seed)

    def add(seed, index, noise):
        return index, noise + tf.random.stateless_uniform([2], seed)

    data = streams.stream(draw, 3, start)
    data = streams.seeded_map(data, add, 7, start)
    return data.map(lambda index, noise: (index, 2 * noise))


CHAINS = {
    "endless": lambda data: data.batch(4),
    "part": lambda data: data.skip(2).take(12).batch(4),
    "batches": lambda data: data.batch(4).skip(1).take(2).map(lambda i, x: (i, -x)),
    "even remainder": lambda data: data.take(10).batch(4).cache().prefetch(2),
    "dropped remainder": lambda data: data.take(11).batch(4, drop_remainder=True),
    "options": lambda data: data.with_options(tf.data.Options()).batch(4),
    "seeded after skip": lambda data: streams.seeded_map(
        data.skip(3), lambda seed, index, x: (index, x * uniform(seed)), 1, 8
    ).batch(4),
}


def uniform(seed):
    return tf.random.stateless_uniform([], seed)


@pytest.mark.parametrize("chain", CHAINS)
def test_parts_together_contain_the_elements_of_the_stream(chain):
    data = CHAINS[chain](stream())
    assert isinstance(data, streams.Stream) and data.divides(2)
    whole = list(data.take(3).as_numpy_iterator())
    parts = [data.part(2, worker, 2).take(3) for worker in range(2)]
    parts = [list(part.as_numpy_iterator()) for part in parts]
    assert [len(part) for part in parts] == [len(whole)] * 2
    for batch, *shares in zip(whole, *parts, strict=True):
        # The workers take turns: index 0, 2, ... and 1, 3, ...
        for worker, share in enumerate(shares):
            for expected, actual in zip(batch, share, strict=True):
                np.testing.assert_array_equal(actual, expected[worker::2])


def recording_stream():
    """Returns a stream of episode seeds, and the list of the computed seeds."""
    computed = []

    def draw(seed):
        def record(value):
            computed.append(int(value))
            return value

        return tf.numpy_function(record, [seed[1]], tf.int64)

    return streams.stream(draw, 0, 0), computed


def test_a_part_computes_only_its_own_elements():
    data, computed = recording_stream()
    seeds = [int(streams.fold_seed(0, index)[1]) for index in range(100)]
    data = data.batch(4).take(10)
    list(data.part(2, 1, 2).as_numpy_iterator())
    assert sorted(computed) == sorted(seeds[1:40:2])


def test_skip_computes_no_elements_and_keeps_static_shapes():
    data, computed = recording_stream()
    data = data.map(lambda x: tf.ensure_shape(x, []))
    seeds = [int(streams.fold_seed(0, index)[1]) for index in range(12)]
    assert list(data.skip(5).take(2).as_numpy_iterator()) == seeds[5:7]
    assert seeds[0] not in computed and seeds[4] not in computed
    assert data.skip(0) is data  # no new trace
    batches = data.batch(2, drop_remainder=True).skip(3)
    assert batches.element_spec.shape == [2]
    assert batches.take(1).get_single_element().numpy().tolist() == seeds[6:8]
    assert list(data.take(3).skip(4)) == list(data.take(3).skip(-1)) == []


def test_tensorflow_distributes_datasets_that_do_not_divide():
    assert not stream().divides(2)  # no batches
    assert not stream().batch(5).divides(2)
    assert not stream().take(9).batch(4).divides(2)
    assert stream().take(9).batch(4, drop_remainder=True).divides(2)
    for dataset in (
        stream().shuffle(4),
        stream().take(4).repeat(2),
        stream().filter(lambda index, noise: True),
        stream().batch(4).batch(2),
        stream().take(4).cache("a file"),
    ):
        assert not isinstance(dataset, streams.Stream)
    strategy = tf.distribute.OneDeviceStrategy("cpu:0")
    data = stream().batch(4)
    assert streams.divided(data, strategy) is data

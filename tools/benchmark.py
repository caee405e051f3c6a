"""Measures time and memory.

    python tools/benchmark.py --what=memory      # peak memory by number of inner steps
    python tools/benchmark.py --what=freezing    # time saved by frozen modules
    python tools/benchmark.py --what=cnp         # time of a neural process by S and Q
    python tools/benchmark.py --what=serving     # requests to an exported model
    python tools/benchmark.py --what=training    # MAML against PyTorch and JAX
    python tools/benchmark.py --what=imaml       # iMAML against PyTorch
    python tools/benchmark.py --what=encoders    # ProtoNet and CNP against PyTorch
    python tools/benchmark.py --what=pretraining # pretraining against PyTorch
    python tools/benchmark.py --what=recurrent   # LSTM, MANN, CNP against PyTorch
    python tools/benchmark.py --what=profile     # time of a step by kind of operation
    python tools/benchmark.py --what=growth      # MAML by tasks, steps, shots and width
    python tools/benchmark.py --what=pipeline    # data pipeline during training
    python tools/benchmark.py --what=workers     # data pipeline of several workers
    python tools/benchmark.py --what=pool        # a pool of up to ten million images
    python tools/benchmark.py --what=adaptation  # time and memory of every zoo entry
    python tools/benchmark.py --what=commands    # wall time of keras-meta commands
    python tools/benchmark.py --what=all         # every table, for docs/benchmarks.md

Each measurement runs in a separate process. Times are medians of interleaved repeats in
one run; warm-up is not timed. The peers (pip install -e '.[bench]') start from the same
weights and data, and their first losses must agree with the losses of keras-meta.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags
from benchmarks import (
    adaptation,
    cnp,
    commands,
    encoders,
    freezing,
    growth,
    harness,
    imaml,
    memory,
    pipeline,
    pool,
    pretraining,
    profile,
    recurrent,
    serving,
    suite,
    training,
    workers,
)

BENCHMARKS = {
    module.__name__.rpartition(".")[2]: module.table
    for module in (
        *(training, imaml, encoders, pretraining, recurrent, profile, growth),
        *(
            memory,
            freezing,
            cnp,
            serving,
            pipeline,
            workers,
            pool,
            commands,
            adaptation,
        ),
    )
}

FLAGS = flags.FLAGS
flags.DEFINE_string("what", None, f"{', '.join(BENCHMARKS)}, or all.")
flags.DEFINE_string("csv", None, "CSV file for the rows of the table.")
flags.DEFINE_string("out", "runs/benchmarks", "Folder for a run of all benchmarks.")
flags.DEFINE_string("case", None, "Internal: a measurement in this process, as JSON.")


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"expected flags alone, got {' '.join(argv[1:])}.")
    if FLAGS.csv and FLAGS.what == "all":
        raise app.UsageError("expected --csv with one benchmark, got --what=all.")
    if FLAGS.case:
        harness.run_case(FLAGS.case)
    elif FLAGS.what == "all":
        suite.run(BENCHMARKS, FLAGS.out)
    elif FLAGS.what in BENCHMARKS:
        table = BENCHMARKS[FLAGS.what]()
        table.print()
        if FLAGS.csv:
            table.write_csv(FLAGS.csv)
    else:
        sys.exit(
            f"benchmark: error: expected --what={'|'.join([*BENCHMARKS, 'all'])}, got "
            f"{FLAGS.what}."
        )


if __name__ == "__main__":
    app.run(main)

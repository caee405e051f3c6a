"""LSTM, MANN and CNP: a meta-training step against PyTorch."""

from benchmarks import harness, problems, sides


def table():
    rows, notes = [], []
    for problem in ("lstm", "mann", "cnp"):
        compared_sides, seconds = sides.compare(problem, _sides(problem))
        rows += [
            {"learner": problem, **row}
            for row in harness.compared(compared_sides, seconds)
        ]
        notes.append(
            f"{problem}: {harness.verdict(compared_sides, seconds, 'PyTorch')}."
        )
    title = (
        f"A meta-training step: {problems.TASKS} sequences of {problems.LENGTH} steps "
        f"with {problems.FEATURES} features, {problems.UNITS} units; CNP of 128 units, "
        "64 tasks of 18 points"
    )
    return harness.Table(title, rows, tuple(notes))


def _sides(problem):
    def list_sides(path):
        keras_meta_sides = [
            sides.keras_meta_side(problem, path, count, {})
            for count in harness.thread_counts()
        ]
        if problem == "lstm":
            keras_meta_sides.append(
                sides.keras_meta_side(problem, path, 1, {"unroll": True}, "unrolled")
            )
        return [*keras_meta_sides, *sides.torch_peers(path, problem, {"": {}})]

    return list_sides

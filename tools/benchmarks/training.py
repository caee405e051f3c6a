"""Second-order MAML: a meta-training step against PyTorch and JAX."""

from benchmarks import flops, harness, problems, sides

STEPS = (1, 5)  # inner steps
TASKS = problems.TASKS
FORMS = ("unrolled", "vmap", "map")  # of JAX, over tasks


def table():
    image = harness.in_process(flops.conv4)
    rows, notes = [], []
    for steps in STEPS:
        listed, seconds = sides.compare("maml", _sides(steps), inner_steps=steps)
        rate = 2 * sides.PEAK_SIZE**3 / seconds[-1]
        listed, seconds = listed[:-1], seconds[:-1]
        compared = harness.compared(listed, seconds, {"tasks a second": TASKS})
        for row, spent in zip(compared, seconds, strict=True):
            share = flops.maml(image, steps) * TASKS / spent / rate
            rows.append({"inner steps": steps, **row, "of the peak": f"{share:.1%}"})
        plural = "s" * (steps > 1)
        notes += [
            f"{steps} inner step{plural}: {harness.verdict(listed, seconds, library)}."
            for library in ("PyTorch", "JAX")
        ]
        notes.append(
            f"{steps} inner step{plural}: {flops.maml(image, steps) / 1e9:.2f} GFLOP a "
            f"task; the peak is {rate / 1e9:.0f} GFLOP/s."
        )
    title = (
        f"Second-order MAML, Conv-4, 28x28, 5w1s, {problems.QUERIES} queries, {TASKS} "
        "tasks"
    )
    return harness.Table(title, rows, tuple(notes))


def _sides(steps):
    def listed(path):
        return [
            sides.ours("maml", path, 1, {"inner_steps": steps}),
            *sides.torch_peers(path, "maml loop", {"loop over tasks": {}}),
            *sides.torch_peers(path, "maml vmap", {"vmap over tasks": {}}),
            *sides.jax_peers(path, {f"tasks {form}": f"maml {form}" for form in FORMS}),
            sides.peak(),
        ]

    return listed

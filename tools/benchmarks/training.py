"""Second-order MAML: a meta-training step against PyTorch and JAX."""

from benchmarks import flops, harness, problems, sides

STEPS = (1, 5)  # inner steps
TASKS = problems.TASKS
FORMS = ("unrolled", "vmap", "map")  # JAX's iteration over tasks


def table():
    image = harness.in_process(flops.conv4)
    rows, notes = [], []
    for steps in STEPS:
        compared_sides, seconds = sides.compare(
            "maml", _sides(steps), inner_steps=steps
        )
        rate = 2 * sides.PEAK_SIZE**3 / seconds[-1]
        compared_sides, seconds = compared_sides[:-1], seconds[:-1]
        comparison = harness.compared(
            compared_sides, seconds, {"tasks a second": TASKS}
        )
        for row, duration in zip(comparison, seconds, strict=True):
            share = flops.maml(image, steps) * TASKS / duration / rate
            rows.append({"inner steps": steps, **row, "of the peak": f"{share:.1%}"})
        prefix = f"{steps} inner step{'s' * (steps > 1)}"
        notes += [
            f"{prefix}: {harness.verdict(compared_sides, seconds, library)}."
            for library in ("PyTorch", "JAX")
        ]
        notes.append(
            f"{prefix}: {flops.maml(image, steps) / 1e9:.2f} GFLOP a "
            f"task; the peak is {rate / 1e9:.0f} GFLOP/s."
        )
    title = (
        f"Second-order MAML, Conv-4, 28x28, 5w1s, {problems.QUERIES} queries, {TASKS} "
        "tasks"
    )
    return harness.Table(title, rows, tuple(notes))


def _sides(steps):
    def list_sides(path):
        return [
            sides.keras_meta_side("maml", path, 1, {"inner_steps": steps}),
            *sides.torch_peers(path, "maml loop", {"loop over tasks": {}}),
            *sides.torch_peers(path, "maml vmap", {"vmap over tasks": {}}),
            *sides.jax_peers(path, {f"tasks {form}": f"maml {form}" for form in FORMS}),
            sides.peak(),
        ]

    return list_sides

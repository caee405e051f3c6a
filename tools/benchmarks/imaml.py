"""iMAML: a meta-training step against PyTorch."""

from benchmarks import harness, problems, sides

INNER_STEPS, CONJUGATE_STEPS = 16, 5


def table():
    settings = {"inner_steps": INNER_STEPS, "conjugate_steps": CONJUGATE_STEPS}
    compared_sides, seconds = sides.compare(
        "imaml",
        lambda path: [
            sides.keras_meta_side("imaml", path, 1, settings),
            *sides.torch_peers(path, "imaml", {"": {}}),
        ],
        **settings,
    )
    rows = harness.compared(compared_sides, seconds, {"tasks a second": problems.TASKS})
    title = (
        f"A meta-training step of iMAML, Conv-4, 28x28, 5w1s, {problems.QUERIES} "
        f"queries, {problems.TASKS} tasks, {INNER_STEPS} inner steps, "
        f"{CONJUGATE_STEPS} steps of conjugate gradient"
    )
    notes = (f"{harness.verdict(compared_sides, seconds, 'PyTorch')}.",)
    return harness.Table(title, rows, notes)

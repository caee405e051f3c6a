"""Supervised pretraining of ResNet-12: a step against PyTorch."""

from benchmarks import harness, problems, sides


def table():
    compared_sides, seconds = sides.both_layouts("supervised")
    rows = harness.compared(
        compared_sides, seconds, {"images a second": problems.BATCH}
    )
    title = (
        f"A step of supervised pretraining, ResNet-12, {problems.BATCH} images of "
        f"32x32x3, {problems.CLASSES} classes, Adam"
    )
    notes = (f"{harness.verdict(compared_sides, seconds, 'PyTorch')}.",)
    return harness.Table(title, rows, notes)

"""Supervised pretraining of ResNet-12: a step against PyTorch."""

from benchmarks import harness, problems, sides


def table():
    listed, seconds = sides.both_layouts("supervised")
    rows = harness.compared(listed, seconds, {"images a second": problems.BATCH})
    title = (
        f"A step of supervised pretraining, ResNet-12, {problems.BATCH} images of "
        f"32x32x3, {problems.CLASSES} classes, Adam"
    )
    notes = (f"{harness.verdict(listed, seconds, 'PyTorch')}.",)
    return harness.Table(title, rows, notes)

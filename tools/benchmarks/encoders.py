"""ProtoNet and CNP classification with Conv-4 and ResNet-12, against PyTorch."""

from benchmarks import harness, problems, sides

LEARNERS = {"ProtoNet": "protonet", "CNP": "cnp_classes"}
ENCODERS = {
    "Conv-4": {"encoder": "conv4", "filters": 64},
    "ResNet-12": {"encoder": "resnet12", "filters": problems.RESNET12},
}
TASKS, SHOTS = 4, 5
IMAGES = TASKS * problems.WAYS * (SHOTS + problems.QUERIES)  # of a step


def table():
    rows, notes = [], []
    for learner, problem in LEARNERS.items():
        for network, settings in ENCODERS.items():
            listed, seconds = sides.both_layouts(
                problem, tasks=TASKS, shots=SHOTS, **settings
            )
            rates = {"images a second": IMAGES}
            rows += [
                {"learner": learner, "network": network, **row}
                for row in harness.compared(listed, seconds, rates)
            ]
            sentence = harness.verdict(listed, seconds, "PyTorch")
            notes.append(f"{learner} with {network}: {sentence}.")
    title = (
        f"A meta-training step, {TASKS} tasks of {problems.WAYS} ways, {SHOTS} shots, "
        f"{problems.QUERIES} queries, 32x32x3: {IMAGES} images"
    )
    return harness.Table(title, rows, tuple(notes))

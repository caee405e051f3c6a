"""ProtoNet and CNP classification with Conv-4 and ResNet-12 against PyTorch."""

from benchmarks import harness, problems, sides

# Learner, its problem, and the precision of convolutions and activations.
CASES = (
    ("ProtoNet", "protonet", "float32"),
    ("ProtoNet", "protonet", "bfloat16"),
    ("CNP", "cnp_classes", "float32"),
)
ENCODERS = {
    "Conv-4": {"encoder": "conv4", "filters": 64},
    "ResNet-12": {"encoder": "resnet12", "filters": problems.RESNET12},
}
TASKS, SHOTS = 4, 5
IMAGES = TASKS * problems.WAYS * (SHOTS + problems.QUERIES)  # in a step


def table():
    rows, notes = [], []
    for learner, problem, precision in CASES:
        for network, settings in ENCODERS.items():
            half = {"half": True} if precision == "bfloat16" else {}
            compared_sides, seconds = sides.both_layouts(
                problem, tasks=TASKS, shots=SHOTS, **settings, **half
            )
            case = {"learner": learner, "network": network, "precision": precision}
            rates = {"images a second": IMAGES}
            rows += [
                {**case, **row}
                for row in harness.compared(compared_sides, seconds, rates)
            ]
            sentence = harness.verdict(compared_sides, seconds, "PyTorch")
            notes.append(f"{learner} with {network} in {precision}: {sentence}.")
    title = (
        f"A meta-training step, {TASKS} tasks of {problems.WAYS} ways, {SHOTS} shots, "
        f"{problems.QUERIES} queries, 32x32x3: {IMAGES} images"
    )
    return harness.Table(title, rows, tuple(notes))

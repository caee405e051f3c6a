"""ProtoNet with encoders in bfloat16, against PyTorch's autocast."""

from benchmarks import encoders, harness, sides


def table():
    rows, notes = [], []
    for network, settings in encoders.ENCODERS.items():
        listed, seconds = sides.both_layouts(
            "protonet",
            tasks=encoders.TASKS,
            shots=encoders.SHOTS,
            half=True,
            **settings,
        )
        rates = {"images a second": encoders.IMAGES}
        rows += [
            {"network": network, **row}
            for row in harness.compared(listed, seconds, rates)
        ]
        notes.append(f"{network}: {harness.verdict(listed, seconds, 'PyTorch')}.")
    title = f"A meta-training step in bfloat16, {encoders.IMAGES} images of 32x32x3"
    return harness.Table(title, rows, tuple(notes))

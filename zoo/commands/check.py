"""`keras-meta check`."""

from keras_meta.zoo import console, named

HELP = "check a network's derivatives and the cost of meta-training"
LOSS = "sparse_categorical_crossentropy"
MARKS = {"right": "✓", "wrong": "✗", "note": " "}


def add(parser):
    parser.add_argument(
        "model", metavar="FILE.keras|NAME", help="a network, a learner or an entry"
    )
    parser.add_argument(
        "--learner", metavar="NAME", help="the learner for a network (default: MAML)"
    )
    parser.add_argument(
        "--loss", help=f"the loss for a network (default: {LOSS}); or mse"
    )
    parser.add_argument(
        "--jit", action="store_true", default=None, help="compare with XLA too"
    )
    console.add_output(parser)


def run(arguments, output):
    named.check(arguments.model)
    output.keep_apart(arguments.model)
    learner = _learner(arguments.model, arguments.learner, arguments.loss)
    from keras_meta import check

    with output.status("comparing derivatives"):
        findings = check.check(learner, arguments.jit)
    table = console.table("", "part", "finding")
    for finding in findings:
        table.add_row(MARKS[finding.state], finding.what, finding.sentence)
    rows = [
        {"part": finding.what, "state": finding.state, "finding": finding.sentence}
        for finding in findings
    ]
    document = {"model": arguments.model, "findings": rows}
    output.show(table, rows=rows, document=document)
    return int(any(finding.state == "wrong" for finding in findings))


def _learner(model, kind, loss):
    """The learner of a file or an entry, or a new learner of a file's network."""
    km = console.start()
    from keras_meta import api

    learner = named.model(model)
    if isinstance(learner, km.Learner):
        for option, value in (("learner", kind), ("loss", loss)):
            if value:
                raise ValueError(f"expected no --{option}, {model} contains a learner.")
        return learner
    kind = kind or "MAML"
    kinds = {
        name: value
        for name, value in vars(api).items()
        if isinstance(value, type) and issubclass(value, km.MAML.__base__)
    }
    if kind not in kinds:
        raise ValueError(f"expected one of {', '.join(sorted(kinds))}, got {kind}.")
    return kinds[kind](learner, loss or LOSS)

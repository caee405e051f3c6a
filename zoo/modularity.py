"""Whether a shrinkage entry has learned modules: the rule, and the measurements."""

import csv
import dataclasses

from keras_meta.zoo import cards

# Shrinkage factors that differ by less count as equal.
TIE = 0.01
# The most accuracy that freezing the half with the smallest factors may cost.
COST = 0.005


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements of an entry by `tools/experiments/modularity.py`.

    Attributes:
        model: the entry.
        sha256: of its file.
        steps: meta-steps of the short trainings.
        seeds: of the short trainings, as text.
        agrees: whether the order of modules agrees between seeds (`agree`).
        half: the modules with the smallest w, as text.
        half_cost, half_95: the loss of accuracy if they are frozen, and the half-width
            of its 95% interval over tasks.
        largest: the module with the largest w.
        largest_cost, largest_95: the same if that module is frozen.
        more, more_95: the paired difference of the two losses.
        tasks: validation tasks.
    """

    model: str
    sha256: str
    steps: int
    seeds: str
    agrees: bool
    half: str
    half_cost: float
    half_95: float
    largest: str
    largest_cost: float
    largest_95: float
    more: float
    more_95: float
    tasks: int

    @property
    def modular(self):
        """Whether all three parts of the rule hold."""
        cheap, dear = self.half_cost < COST, self.more > self.more_95
        return self.agrees and cheap and dear


def agree(runs):
    """Whether the order of modules is the same for all training seeds.

    No pair of modules may have opposite orders in two runs, and at least one pair must
    have the same order in all runs.

    Args:
        runs: `{module: w}` of each training seed; differences up to `TIE` are ties.
    """
    orders = [
        {
            (first, second)
            for first in shares
            for second in shares
            if shares[first] > shares[second] + TIE
        }
        for shares in runs
    ]
    every = set.union(*orders)
    return bool(set.intersection(*orders)) and not any(
        (second, first) in every for first, second in every
    )


def path():
    return cards.MODELS.parent / "modularity.csv"


def read():
    """All measurements, `{model: Measured}`."""
    if not path().exists():
        return {}
    with path().open(encoding="utf-8") as file:
        return {row["model"]: _parsed(row) for row in csv.DictReader(file)}


def measured(card):
    """The measurements of the file that a card describes, or None."""
    row = read().get(card.name)
    return row if row and row.sha256 == card.sha256 else None


def _parsed(row):
    kinds = {field.name: field.type for field in dataclasses.fields(Measured)}
    kinds |= dict.fromkeys(
        (name for name in kinds if kinds[name] is bool), "True".__eq__
    )
    return Measured(**{name: kinds[name](row[name]) for name in kinds})


def sentence(card):
    """The verdict on an entry with learned scales, for the first line of its page."""
    row = measured(card)
    if row is None:
        return "Not shown to be modular: its scales were not tested."
    cheap = _points(row.half_cost, row.half_95)
    dear = _points(row.largest_cost, row.largest_95)
    costs = (
        f"reezing {row.half} costs {cheap}, freezing {row.largest} {dear} of accuracy "
        f"on {row.tasks} validation tasks."
    )
    if row.modular:
        return f"Modular: f{costs}"
    reasons = []
    if not row.agrees:
        reasons.append(
            f"after {row.steps} meta-steps the order of its modules differs between "
            "training seeds"
        )
    if row.half_cost >= COST:
        reasons.append("freezing the half with the smallest factors costs too much")
    if row.more <= row.more_95:
        reasons.append("freezing the module with the largest factor costs no more")
    return f"Not modular: {', and '.join(reasons)}. F{costs}"


def _points(cost, interval):
    return f"{100 * cost:.2f} ± {100 * interval:.2f} points"

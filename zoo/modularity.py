"""Whether a shrinkage entry has learned modules: the rule, and what was measured."""

import csv
import dataclasses

from keras_meta.zoo import cards

# Shrinkage factors that differ by less count as equal.
TIE = 0.01
# The most accuracy that freezing the half with the smallest factors may cost.
COST = 0.005


@dataclasses.dataclass(frozen=True)
class Measured:
    """What `tools/experiments/modularity.py` measured of an entry.

    Attributes:
        model: the entry.
        sha256: of its file.
        steps: meta-steps of the short trainings.
        seeds: of these, as text.
        agrees: whether the order of modules agrees over them (`agree`).
        half: the modules with the smallest w, as text.
        half_cost, half_95: accuracy that freezing them costs, and the half-width of its
            95% interval over tasks.
        largest: the module with the largest w.
        largest_cost, largest_95: the same of it.
        more, more_95: how much more the latter costs, task by task.
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
    """Whether training seeds give modules the same order.

    No two modules may be ordered one way in one run and the other way in another, and
    every run must order at least one pair alike.

    Args:
        runs: `{module: w}` of each training seed; differences up to `TIE` are ties.
    """
    orders = [
        {
            (one, two)
            for one in shares
            for two in shares
            if shares[one] > shares[two] + TIE
        }
        for shares in runs
    ]
    every = set.union(*orders)
    return bool(set.intersection(*orders)) and not any(
        (two, one) in every for one, two in every
    )


def path():
    return cards.MODELS.parent / "modularity.csv"


def read():
    """All that was measured, `{model: Measured}`."""
    if not path().exists():
        return {}
    with path().open(encoding="utf-8") as file:
        return {row["model"]: _parsed(row) for row in csv.DictReader(file)}


def of(card):
    """What was measured of the file that a card describes, or None."""
    found = read().get(card.name)
    return found if found and found.sha256 == card.sha256 else None


def _parsed(row):
    kinds = {field.name: field.type for field in dataclasses.fields(Measured)}
    kinds |= dict.fromkeys(
        (name for name in kinds if kinds[name] is bool), "True".__eq__
    )
    return Measured(**{name: kinds[name](row[name]) for name in kinds})


def sentence(card):
    """The verdict on an entry with learned scales, for the first line of its page."""
    found = of(card)
    if found is None:
        return "Not shown to be modular: its scales were not put to the test."
    if found.modular:
        cheap = _points(found.half_cost, found.half_95)
        dear = _points(found.largest_cost, found.largest_95)
        return (
            f"Modular: freezing {found.half} costs {cheap}, freezing {found.largest} "
            f"{dear} of accuracy on {found.tasks} validation tasks."
        )
    reasons = []
    if not found.agrees:
        reasons.append("the order of its modules differs between training seeds")
    if found.half_cost >= COST:
        reasons.append(
            "freezing the half with the smallest factors costs "
            + _points(found.half_cost, found.half_95)
        )
    if found.more <= found.more_95:
        reasons.append("freezing the module with the largest costs no more than that")
    return f"Not modular: {', and '.join(reasons)}."


def _points(cost, interval):
    return f"{100 * cost:.2f} ± {100 * interval:.2f} points"

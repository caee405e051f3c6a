"""Card: what a pretrained model is, on one page that needs no TensorFlow to read."""

import dataclasses
import difflib
import hashlib
import json
import pathlib

MODELS = pathlib.Path(__file__).parent / "models"


@dataclasses.dataclass(frozen=True)
class Card:
    """What there is to know about a zoo entry.

    Attributes:
        name: `<learner>.<task>`.
        paper: of the algorithm.
        data: the data set and how its classes were split.
        licence: of the data.
        protocol: ways, shots and the like, as a sentence.
        normalization: "inductive" or "transductive".
        seed: of the split, the weights and the training episodes.
        command: what trained it.
        steps: meta-steps taken, all runs together.
        kept: the meta-step whose weights are here, the best on validation tasks.
        hours: training time on two CPU cores.
        sha256: of `model.keras`.
        test_classes: label ids of the classes it has never seen; None for functions.
        inputs: what an example is: "images", "curves" (x is a number) or "points".
        ways, shots: of the episodes it was trained for; ways is None for functions.
        figures: measured on test episodes; one dict for each setting, as trained
            first, with the metric, its mean and 95% half-width, the number of tasks,
            the seed, the normalization, the calibration error and what it is at the
            temperature that suits validation tasks best.
    """

    name: str
    paper: str
    data: str
    licence: str
    protocol: str
    normalization: str
    seed: int
    command: str
    steps: int
    kept: int
    hours: float
    sha256: str
    test_classes: list[int] | None
    inputs: str
    ways: int | None
    shots: int
    figures: list[dict] = dataclasses.field(default_factory=list)

    @property
    def directory(self):
        return MODELS / self.name

    @property
    def weights(self):
        """The model's file."""
        return self.directory / "model.keras"

    def check(self):
        """Raises ValueError unless the model's file is the one the card describes."""
        if not self.weights.is_file():
            raise ValueError(f"expected the weights of {self.name} at {self.weights}.")
        found = sha256(self.weights)
        if found != self.sha256:
            raise ValueError(
                f"expected {self.weights} to have sha256 {self.sha256}, it has {found}:"
                " the file is damaged or is not the one the card describes."
            )

    def write(self):
        """Writes `card.json`; a reader never sees half of it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "card.json"
        draft = path.with_suffix(".tmp")
        draft.write_text(
            json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8"
        )
        draft.replace(path)


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def list_models():
    """The cards of all trained entries, by name."""
    return [
        Card(**json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(MODELS.glob("*/card.json"))
    ]


def card(name):
    """The card of a trained entry.

    Raises:
        ValueError: no such entry.
    """
    found = {card.name: card for card in list_models()}
    if name not in found:
        raise ValueError(unknown("a trained model", name, found))
    return found[name]


def unknown(what, name, names):
    """The sentence on a name that is none of those there are."""
    near = ", ".join(difflib.get_close_matches(name, names, n=3))
    return (
        f"expected the name of {what}{near and f', such as {near}'} (`keras-meta list` "
        f"has all), got '{name}'."
    )

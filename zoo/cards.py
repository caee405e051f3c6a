"""Card: what a pretrained model is, on one page that needs no TensorFlow to read."""

import dataclasses
import difflib
import hashlib
import json
import pathlib

from keras_meta.zoo import atomic

# Of `card.json`: raised whenever a field is added, dropped or changes its meaning once
# a release reads the schema.
SCHEMA = 2
# In `initial_weights`, of training that began from no other model.
RANDOM = "random"
# In `initial_weights`, of an entry that Keras downloads the weights of.
EXTERNAL = "external"
MODELS = pathlib.Path(__file__).parent / "models"


@dataclasses.dataclass(frozen=True)
class Card:
    """What there is to know about a zoo entry.

    `card.json` has these fields and `schema`, the version of them.

    Attributes:
        name: of the entry; it says nothing that no field does.
        learner: the class, such as "MAML".
        paper: of the algorithm.
        source: the id of the data and its split; scores of tasks compare within one.
        family: the data in a few words, such as "Omniglot".
        data: the data set and how its classes were split.
        procedural: whether a program drew the images.
        licence: of the data.
        protocol: ways, shots and the like, as a sentence.
        normalization: "inductive" or "transductive".
        seed: of the split, the weights and the training episodes.
        command: what trained it.
        initial_weights: "random", or the entry or file that training began from;
            "external" with `external`.
        network: the name of the network, such as "conv4".
        external: None; or where the weights come from that Keras downloads on first
            use: a dict with url, md5 (None where Keras checks none), licence, and
            bytes (four for each weight). The entry then has no file and no sha256.
        steps: meta-steps taken, all runs together.
        kept: the meta-step whose weights are here, the best on validation tasks.
        hours: training time on two CPU cores.
        sha256: of `model.keras`.
        test_classes: label ids of the classes it has never seen; None for functions.
        inputs: what an example is: "images", "images with string labels", "curves" (x
            is a number), "points" or "pixels" (x is a place).
        any_units: whether it takes points in units of their own, by its `point_units`.
        ways, shots: of the episodes it was trained for; ways is None for functions.
        validation: the figure by which the weights were kept: a dict with the metric,
            its mean and 95% half-width and the number of tasks; None if unknown.
        grid: accuracy on validation tasks by ways and shots, by which `learn` chooses
            (`choice.for_images`): one dict for each cell, with ways, shots, queries of
            each class, mean, 95% half-width (interval), the number of tasks (episodes),
            the seed and the normalization; empty where it was not computed.
        figures: measured on test episodes; one dict for each setting, as trained
            first, with the metric, its mean and 95% half-width, the number of tasks,
            the seed, the normalization, the calibration error and what it is at the
            temperature that suits validation tasks best.
        initial_sha256: of the file of the initial weights; None for random ones.
        initial_figure: the score of the initial weights in this entry's learner, on the
            tasks of the first of `figures`: a dict like it without calibration; None
            for random weights, and where it was not computed.
    """

    name: str
    learner: str
    paper: str
    source: str
    family: str
    data: str
    procedural: bool
    licence: str
    protocol: str
    normalization: str
    seed: int
    command: str
    initial_weights: str
    steps: int
    kept: int
    hours: float
    sha256: str
    test_classes: list[int] | None
    inputs: str
    any_units: bool
    ways: int | None
    shots: int
    network: str | None = None
    external: dict | None = None
    validation: dict | None = None
    grid: list[dict] = dataclasses.field(default_factory=list)
    figures: list[dict] = dataclasses.field(default_factory=list)
    initial_sha256: str | None = None
    initial_figure: dict | None = None

    @classmethod
    def read(cls, path):
        """The card of a `card.json`.

        Raises:
            ValueError: a file that cannot be read, is damaged or has another schema.
        """
        path = pathlib.Path(path)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            schema = fields.pop("schema", 0)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(
                f"expected a card, one JSON object, in {path}: the file is missing or "
                "damaged."
            ) from error
        if schema != SCHEMA:
            newer = isinstance(schema, int) and schema > SCHEMA
            cure = "update keras-meta" if newer else "publish the entry anew"
            raise ValueError(
                f"expected a card of schema {SCHEMA} in {path}, got schema {schema}: "
                f"{cure}."
            )
        known = {field.name for field in dataclasses.fields(cls)}
        wrong = sorted(known ^ fields.keys())
        if wrong:
            lacking = [name for name in wrong if name in known]
            what = f"no {', '.join(lacking)}" if lacking else f"also {', '.join(wrong)}"
            raise ValueError(
                f"expected the fields of schema {SCHEMA} in {path}, got {what}."
            )
        return cls(**fields)

    @property
    def began_at_random(self):
        """Whether training began from no other model."""
        return self.initial_weights == RANDOM

    @property
    def directory(self):
        return MODELS / self.name

    @property
    def weights(self):
        """The model's file."""
        return self.directory / "model.keras"

    @property
    def log(self):
        """The log of its training: validation by meta-step; None if it was not kept."""
        path = self.directory / "log.csv"
        return path if path.exists() else None

    def check(self):
        """Raises ValueError unless the model's file is the one the card describes."""
        if self.external:
            return
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
        fields = {"schema": SCHEMA, **dataclasses.asdict(self)}
        atomic.write_text(path, json.dumps(fields, indent=1) + "\n")


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def list_models():
    """The cards of all trained entries, by name."""
    return [Card.read(path) for path in sorted(MODELS.glob("*/card.json"))]


def stored():
    """The cards of the entries whose weights are here, by name."""
    return [card for card in list_models() if not card.external]


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

"""Cards of pretrained models. Importing this needs no TensorFlow."""

import csv
import dataclasses
import difflib
import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Self

from keras_meta.typing_names import StrPath
from keras_meta.zoo import atomic

# The version of `card.json`. It increases when a field is added, dropped or changes its
# meaning after a release that reads the schema.
SCHEMA = 2
# `initial_weights` of an entry that began from no other model.
RANDOM = "random"
# `initial_weights` of an entry whose weights Keras downloads.
EXTERNAL = "external"
# The log that is stored beside a card, by stage of training.
LOGS = {"pretraining": "pretraining.csv", "training": "log.csv"}
MODELS = pathlib.Path(__file__).parent / "models"


@dataclasses.dataclass(frozen=True)
class Card:
    """The description of a zoo entry.

    `card.json` has these fields and `schema`, their version.

    Attributes:
        name: of the entry. Code reads facts from the other fields only.
        learner: the class, such as "MAML".
        paper: of the algorithm.
        source: the id of the data and its split; scores of different sources are not
            comparable.
        family: the data in a few words, such as "Omniglot".
        data: the data set and how its classes were split.
        procedural: whether a program drew the images.
        photographs: whether the images are photographs rather than drawings.
        licence: of the data.
        protocol: ways, shots and the like, as a sentence.
        normalization: "inductive" or "transductive".
        seed: of the split, the weights and the training episodes.
        command: the command that trained it.
        initial_weights: "random", or the entry or file that training began from;
            "external" with `external`.
        network: the name of the network, such as "conv4".
        external: None; or the origin of weights that Keras downloads on first use: a
            dict with url, md5 (None if Keras does not check the file), licence, and
            bytes (four for each weight). The entry then has no file and no sha256.
        steps: meta-steps of the last stage of the run.
        kept: the meta-step of the stored weights, the best on validation tasks.
        hours: training time of all stages on two CPU cores.
        sha256: of `model.keras`.
        test_classes: label ids of the unseen classes; None for functions.
        inputs: the kind of an example: "images", "images with string labels", "curves"
            (x is a number), "points" or "pixels" (x is a place in an image).
        any_units: whether points may be in any units, see `Learner.point_units`.
        ways, shots: of the episodes it was trained for; ways is None for functions.
        validation: the figure that decided which weights are stored: a dict with the
            metric, its mean and 95% half-width and the number of tasks; None if
            unknown.
        grid: accuracy on validation tasks by ways and shots, by which `learn` chooses
            its default (`choice.for_images`): one dict for each cell, with ways, shots,
            queries of each class, mean, 95% half-width (interval), the number of tasks
            (episodes), the seed and the normalization; empty if it was not computed.
        rejection: thresholds for queries that belong to no class, by ways and shots: a
            list of dicts, see `rejection.calibrate`; empty if they were not computed.
        figures: scores on test episodes; one dict for each setting, as trained first,
            with the metric, its mean and 95% half-width, the number of tasks, the seed,
            ways, shots, queries, the normalization, the calibration error, and the
            calibration error at the temperature with the highest likelihood of
            validation tasks.
        initial_sha256: of the file of the initial weights; None for random weights.
        initial_figure: the score of the initial weights in this entry's learner, on the
            tasks of the first of `figures`: a dict like it without calibration; None
            for random weights, or if it was not computed.
    """

    name: str
    learner: str
    paper: str
    source: str
    family: str
    data: str
    procedural: bool
    photographs: bool
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
    rejection: list[dict] = dataclasses.field(default_factory=list)
    figures: list[dict] = dataclasses.field(default_factory=list)
    initial_sha256: str | None = None
    initial_figure: dict | None = None

    @classmethod
    def read(cls, path: StrPath) -> Self:
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
            cure = "update keras-meta" if newer else "publish the entry again"
            raise ValueError(
                f"expected a card of schema {SCHEMA} in {path}, got schema {schema}: "
                f"{cure}."
            )
        known = {field.name for field in dataclasses.fields(cls)}
        wrong = sorted(known ^ fields.keys())
        if wrong:
            lacking = ", ".join(name for name in wrong if name in known)
            got = f"no {lacking}" if lacking else f"also {', '.join(wrong)}"
            raise ValueError(
                f"expected the fields of schema {SCHEMA} in {path}, got {got}."
            )
        return cls(**fields)

    @property
    def began_at_random(self) -> bool:
        """Whether training began from no other model."""
        return self.initial_weights == RANDOM

    @property
    def kind(self) -> str:
        """The kind of the inputs: "photographs", or `inputs`."""
        return "photographs" if self.photographs else self.inputs

    @property
    def directory(self) -> pathlib.Path:
        return MODELS / self.name

    @property
    def weights(self) -> pathlib.Path:
        """The model's file."""
        return self.directory / "model.keras"

    @property
    def logs(self) -> dict[str, pathlib.Path]:
        """The logs of its training that are stored, validation by step, by stage."""
        paths = {stage: self.directory / name for stage, name in LOGS.items()}
        return {stage: path for stage, path in paths.items() if path.exists()}

    def check(self) -> None:
        """Raises ValueError unless the model's file is the one the card describes."""
        if self.external:
            return
        if not self.weights.is_file():
            raise ValueError(f"expected the weights of {self.name} at {self.weights}.")
        actual = sha256(self.weights)
        if actual != self.sha256:
            raise ValueError(
                f"expected {self.weights} to have sha256 {self.sha256}, got {actual}: "
                "the file is damaged or is not the one the card describes."
            )

    def write(self) -> None:
        """Writes `card.json`, completely or not at all."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "card.json"
        fields = {"schema": SCHEMA, **dataclasses.asdict(self)}
        atomic.write_text(path, json.dumps(fields, indent=1) + "\n")


def sha256(path: StrPath) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def list_models() -> list[Card]:
    """The cards of all trained entries, by name."""
    return [Card.read(path) for path in sorted(MODELS.glob("*/card.json"))]


def costs() -> dict[str, dict[str, str]]:
    """Time and memory of the stored entries, measured with their present weights.

    Returns:
        `{name: {column: text}}` from adaptation.csv, which `tools/benchmark.py
        --what=adaptation` writes.
    """
    path = MODELS.parent / "adaptation.csv"
    if not path.exists():
        return {}
    present = {(card.name, card.sha256) for card in stored()}
    with path.open(encoding="utf-8") as file:
        rows = {
            (row.pop("model"), row.pop("sha256")): row for row in csv.DictReader(file)
        }
    return {key[0]: row for key, row in rows.items() if key in present}


def stored() -> list[Card]:
    """The cards of the entries with stored weights, by name."""
    return [card for card in list_models() if not card.external]


def card(name: str) -> Card:
    """The card of a trained entry.

    Raises:
        ValueError: no such entry.
    """
    by_name = {card.name: card for card in list_models()}
    if name not in by_name:
        raise ValueError(unknown("a trained model", name, by_name))
    return by_name[name]


def unknown(what: str, name: str, names: Iterable[str]) -> str:
    """The error about a name that does not exist, one sentence.

    Args:
        what: the kind of the name, such as "a recipe".
        name: the name.
        names: the names that exist.
    """
    near = ", ".join(difflib.get_close_matches(name, names, n=3))
    return (
        f"expected the name of {what}{near and f', such as {near}'} (`keras-meta list` "
        f"lists all), got '{name}'."
    )

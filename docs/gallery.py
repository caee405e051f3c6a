"""Writes the gallery of the zoo, `gallery.md`, from the cards."""

import os
import pathlib

from keras_meta import zoo
from keras_meta.zoo import scores

FOLDER = pathlib.Path(__file__).parent
# The first picture that an entry has represents it.
PICTURES = (
    *("episode.png", "fit.png", "examples.png", "presentations.png"),
    "completions.png",
)
COMMANDS = {
    "images": "keras-meta learn drawings/ --support examples/ --model={}",
    "photographs": "keras-meta learn photographs/ --support examples/ --model={}",
    "curves": "keras-meta learn points.csv --model={}",
}
OTHER_COMMAND = "keras-meta export {} served"
HEAD = """# Gallery of the zoo

Every pretrained model with the licence of its data and one command and, unless Keras
downloads its weights, a picture of its predictions and its test figure with the 95%
interval. The weights are licensed under
Apache-2.0. `keras-meta info NAME --json` prints the whole card, and
`zoo/README.md` in the repository lists all figures.
"""


def write():
    """Writes `gallery.md`: one section a data family, one tile a model."""
    families = {}
    for card in zoo.list_models():
        families.setdefault(card.family, []).append(card)
    lines = [HEAD]
    for family, cards in families.items():
        lines += [f"## {family}", "", "::::{grid} 1 2 2 3", ":gutter: 2", ""]
        for card in cards:
            lines += tile(card)
        lines += ["::::", ""]
    text = "\n".join(lines)
    path = FOLDER / "gallery.md"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def tile(card):
    """The lines of one model's tile."""
    lines = [f":::{{grid-item-card}} `{card.name}`"]
    pictures = [card.directory / name for name in PICTURES]
    picture = next((path for path in pictures if path.exists()), None)
    if picture:
        relative = pathlib.Path(os.path.relpath(picture, FOLDER)).as_posix()
        lines += [f":img-top: {relative}", f":img-alt: {card.name}"]
    lines += ["", ""]
    if card.figures:
        figure = card.figures[0]
        lines += [
            f"**{scores.sentence(figure)}** ({scores.protocol(figure)}, "
            f"{figure['normalization']}, {figure['episodes']} tasks)",
            "",
        ]
    command = COMMANDS.get(card.kind, OTHER_COMMAND).format(card.name)
    lines += [f"Data: {card.licence}", "", "```sh", command, "```", ":::", ""]
    return lines

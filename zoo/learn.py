"""`keras-meta learn`: new classes or a curve, from a few examples of the user's own."""

import csv
import functools

import numpy as np

from keras_meta import zoo
from keras_meta.zoo import console, predictions, recipes

PICTURES = (".png", ".pdf", ".svg", ".jpg")
LEARNED = "predictions.png"
# More queries than this are in the table alone.
DRAWN_QUERIES = 150
# Queries of one call: bounds the memory that a folder of thousands takes.
QUERIES_AT_ONCE = 500
# For curves whose family is not known.
CURVES = "cnp.gp_rbf"
# Of x: the range that models of curves know, and what known points are scaled to.
END, KNOWN = 2.0, 1.6


def run(arguments, output):
    """Runs the command on its parsed arguments: queries, support, model and out.

    Args:
        arguments: parsed.
        output: a `console.Output`.

    Raises:
        ValueError: a mistake of the user's, in one sentence.
    """
    queries, out = arguments.queries, arguments.out
    if out.suffix.lower() not in PICTURES:
        raise ValueError(f"expected --out to end in {', '.join(PICTURES)}, got {out}.")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"expected a folder for --out, found none at {out.parent}.")
    output.keep_apart(out, queries)
    if not queries.exists():
        raise ValueError(f"expected images or points, found nothing at {queries}.")
    if queries.is_dir():
        return _learn_images(arguments, output)
    if queries.suffix.lower() != ".csv":
        raise ValueError(f"expected a folder of images or a .csv file, got {queries}.")
    if arguments.support:
        raise ValueError("expected no --support with a .csv file: it has known points.")
    return _learn_points(arguments, output)


def _learn_images(arguments, say):
    out = arguments.out
    support, queries = _folders(arguments.queries, arguments.support)
    classes = class_folders(support)
    wanted = arguments.model and console.trained_card(arguments.model)
    _choose(wanted, len(classes), 1)  # a task for no model is told before the wait
    km = console.start()
    from keras_meta import plots

    classes, examples, asked = read_folders(support, queries)
    files = sum(examples, [])
    if out.resolve() in [f.resolve() for f in files + asked]:
        raise ValueError(f"expected --out to be none of the images, got {out}.")
    say.keep_apart(*files, *asked)
    card = _choose(wanted, len(classes), len(files) / len(classes))
    learner = zoo.load(card.name)

    kinds, small = [], []
    for file in files + asked:
        image = km.episodes.load_image(file)
        kinds.append(_kind(km, image) if learner.preprocess.invert else "dark ink")
        image = 255 - image if kinds[-1] == "light ink" else image
        small.append(learner.preprocess.resize(image))
    x = learner.preprocess.scale(np.stack(small)).numpy()
    support_x, query_x = x[: len(files)], x[len(files) :]
    support_y = np.repeat(range(len(classes)), [len(each) for each in examples])
    state = learner.adapt(support_x[None], support_y[None])
    at_once = len(asked) if card.normalization == "transductive" else QUERIES_AT_ONCE
    logits = [
        learner.infer(state, query_x[None, i : i + at_once])[0]
        for i in range(0, len(asked), at_once)
    ]
    probabilities = _softmax(np.concatenate(logits))[:, : len(classes)]

    names = [folder.name for folder in classes]
    labels = predictions.known_labels(asked, queries, names)
    say.print(
        f"{card.name} learned {len(classes)} classes from {len(files)} images",
        style="bold",
    )
    shown = [file.relative_to(queries).as_posix() for file in asked]
    predictions.show_classes(say, card.name, names, shown, labels, probabilities)
    _say_kinds(say, card, kinds)
    if card.normalization == "transductive":
        say.print("Note: the model is transductive: each answer depends on all images.")
    shown = 1 - x if learner.preprocess.invert else x
    figure = plots.predictions(
        shown[: len(files)],
        support_y,
        shown[len(files) :][:DRAWN_QUERIES],
        probabilities[:DRAWN_QUERIES],
        names,
        None if None in labels else labels[:DRAWN_QUERIES],
    )
    console.save(figure, out)
    first = f" (the first {DRAWN_QUERIES})" if len(asked) > DRAWN_QUERIES else ""
    say.print(f"Picture: {out}{first}")


def class_folders(support):
    """The sub-folders of a folder of examples."""
    if not support.is_dir():
        raise ValueError(f"expected a folder of classes, found none at {support}.")
    classes = sorted(
        path
        for path in support.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    )
    if len(classes) < 2:
        raise ValueError(
            f"expected at least two sub-folders of images, one for each class, in "
            f"{support}, found {len(classes)}."
        )
    return classes


def read_folders(support, queries):
    """`(classes, [files of each class], files to classify)`, all of them paths.

    Raises:
        ValueError: a folder that is missing, or has no images or too few classes.
    """
    from keras_meta import episodes

    classes = class_folders(support)
    examples = [episodes.image_files(folder) for folder in classes]
    for folder, files in zip(classes, examples, strict=True):
        if not files:
            raise ValueError(f"expected images in {folder}, found none.")
    if not queries.is_dir():
        raise ValueError(f"expected images to classify in {queries}, found no folder.")
    folders = [queries, *predictions.labelled_folders(support, queries, classes)]
    asked = [
        file
        for folder in folders
        for file in episodes.image_files(folder)
        # The picture of an earlier call is no query.
        if folder != queries or file.name != LEARNED
    ]
    if not asked:
        raise ValueError(f"expected images to classify in {queries}, found none.")
    return classes, examples, asked


def _folders(queries, support):
    """The folders of examples and of images to classify."""
    if support is None:
        if not (queries / "support").is_dir() or not (queries / "query").is_dir():
            raise ValueError(
                "expected --support DIR, a sub-folder of images for each class; or "
                f"the folders support and query in {queries}."
            )
        return queries / "support", queries / "query"
    return support, queries


def _choose(wanted, ways, shots):
    """The card to use: the one wanted, or the one made for the likest task."""
    if wanted:
        if wanted.inputs != "images":
            raise ValueError(
                f"expected a model of images, {wanted.name} learns {wanted.inputs}."
            )
        if wanted.ways < ways:
            raise ValueError(
                f"expected at most {wanted.ways} classes for {wanted.name}, got {ways}."
            )
        return wanted
    # A transductive model answers well only if queries of all classes come together.
    able = [
        card
        for card in zoo.list_models()
        if card.inputs == "images" and card.normalization == "inductive"
    ]
    most = max([card.ways for card in able], default=0)
    if ways > most:
        raise ValueError(
            f"expected at most {most} classes, got {ways}: no model of the zoo knows "
            "more."
        )

    def unlike(card):
        score = card.figures[0]["mean"] if card.figures else 0.0
        # Drawings by hand are liker to drawings by hand than to procedural ones.
        procedural = card.data == recipes.GLYPHS.title
        return abs(card.shots - shots), card.ways, procedural, -score

    return min([card for card in able if card.ways >= ways], key=unlike)


def _softmax(logits):
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def _kind(km, image):
    """What a picture seems to be: "dark ink", "light ink" or "photograph".

    A drawing is ink of one tone on a ground of one tone, and ink departs from the
    ground in one direction. The thresholds were set by looking: of Omniglot's
    characters, also in pencil, as chalk, scanned or on badly lit paper, at most a few
    in a hundred pass for photographs; of parts of photographs, four in five do.
    """
    pixels = km.ImagePreprocess(28, 28, 3).resize(image).numpy().astype(float)
    places = np.insert(np.indices([28, 28]), 0, 1, axis=0).transpose(1, 2, 0)
    for _ in range(2):
        tone = pixels.mean(axis=-1)
        tone -= np.median(tone)
        contrast = max(np.abs(tone).max(), 1.0)
        dark, light = tone < -contrast / 3, tone > contrast / 3
        ground = _within(~(dark | light))
        if not ground.any():
            return "photograph"
        # Light that falls from a side is a plane; look again without it.
        plane = np.linalg.lstsq(places[ground], pixels[ground], rcond=None)[0]
        pixels = pixels - places @ plane
    kind = "light ink" if light.sum() > dark.sum() else "dark ink"
    inside = _within(light if kind == "light ink" else dark)
    if (
        min(dark.mean(), light.mean()) > 0.05
        or pixels[ground].std(axis=0).mean() > 0.1 * contrast
        or (inside.mean() > 0.05 and pixels[inside].std(axis=0).mean() > 0.1 * contrast)
    ):
        return "photograph"
    return kind


def _within(mask):
    """The places of a mask `[H, W]` whose eight neighbours are in it too."""
    padded = np.pad(mask, 1)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).all(axis=(2, 3))


def _say_kinds(say, card, kinds):
    photographs, light = kinds.count("photograph"), kinds.count("light ink")
    # One in five or so is not recognised; a few among drawings are a mistake of ours.
    if photographs >= len(kinds) / 2:
        say.print(
            f"Note: these look like photographs. {card.name} knows drawn characters, "
            "and its answers on photographs mean little."
        )
    if light:
        say.print(
            f"Note: {light} of {len(kinds)} images are light ink on a dark ground; "
            "they were inverted, for the model knows dark ink on a light one."
        )


def _learn_points(arguments, say):
    known, asked = read_points(arguments.queries)
    if arguments.model:
        card = console.trained_card(arguments.model)
        if card.inputs != "curves":
            raise ValueError(
                f"expected a model of curves, {card.name} learns {card.inputs}."
            )
    else:
        card = _curve_card(len(known))
    console.start()
    from keras_meta import plots

    learner = zoo.load(card.name)
    low, high = min(known[:, 0].min(), asked.min()), max(known[:, 0].max(), asked.max())
    grid = np.linspace(low - 0.5 * (low == high), high + 0.5 * (low == high), 300)
    everywhere = np.concatenate([asked, grid])
    predict = functools.partial(_predicted, learner)
    try:
        mean, scale = in_units(card.name, known, everywhere, predict)
    except ValueError as error:  # they are finite: what is learned of them is not
        raise ValueError(
            f"expected points like those of {card.data}: learning these diverged."
        ) from error

    points = f"{len(known)} point{'s' * (len(known) > 1)}"
    say.print(f"{card.name} learned a curve from {points}", style="bold")
    predictions.show_points(say, card.name, asked, mean, scale)
    if scale is not None:
        say.print("± and the band are two standard deviations of a new point.")
    say.print(f"It knows {card.data}; {units_note(card.name)}.")
    outside = (asked < known[:, 0].min()) | (asked > known[:, 0].max())
    if outside.any():
        say.print(
            f"Note: {outside.sum()} of {len(asked)} x lie outside the known points; "
            "what is said of them is a guess."
        )
    query = asked, mean[: len(asked)]
    band = None if scale is None else scale[len(asked) :]
    figure = plots.fit(*known.T, grid, mean[len(asked) :], band, query=query)
    console.save(figure, arguments.out)
    say.print(f"Picture: {arguments.out}")


def _curve_card(points):
    """The card of the model for curves: a Gaussian process if there is one."""
    fitting = [card for card in zoo.list_models() if card.inputs == "curves"]
    if not fitting:
        raise ValueError("expected a trained model of curves, the zoo has none.")
    return min(
        fitting,
        key=lambda card: (card.name != CURVES, abs(card.shots - points)),
    )


def _predicted(learner, known, x):
    """Mean, and scale if the learner has one, at `x [n]`; each `[n]`."""
    known, x = known.astype(np.float32), x.astype(np.float32)
    state = learner.adapt(known[None, :, :1], known[None, :, 1:])
    outputs = learner.infer(state, x[None, :, None])
    if isinstance(outputs, tuple):
        return [each.numpy()[0, :, 0] for each in outputs]
    return outputs.numpy()[0, :, 0], None


def _has_units(name):
    """Whether a model knows curves of one range, to which others must be scaled."""
    return name.startswith("cnp.")


def units_note(name):
    """What was done to the points of a curve."""
    if _has_units(name):
        return (
            f"the known x were scaled to [-{KNOWN}, {KNOWN}], and y to mean 0 and "
            "spread 1, for it"
        )
    return "points were taken as they are, and curves unlike its own mean little to it"


def in_units(name, known, x, predict):
    """What a model predicts, in the units of the points, whatever its own are.

    Args:
        name: of the entry.
        known: points `[S, 2]`. What a model knows of x is the range [-2, 2]: these
            fill most of it, and what lies beyond is answered as its end is, so that
            no answer depends on what else is asked.
        x: to be predicted, `[Q]`.
        predict: `(known, x) -> (mean [Q], scale [Q] or None)`.

    Returns:
        `(mean, scale)`.
    """
    if not _has_units(name):
        return predict(known, x)
    least, most = known[:, 0].min(), known[:, 0].max()
    unit, centre = (most - least) / (2 * KNOWN) or 1.0, (least + most) / 2
    middle, spread = known[:, 1].mean(), known[:, 1].std() or 1.0
    mean, scale = predict(
        np.stack([(known[:, 0] - centre) / unit, (known[:, 1] - middle) / spread], 1),
        np.clip((x - centre) / unit, -END, END),
    )
    return middle + spread * mean, spread * scale


def read_points(path):
    """The known points `[S, 2]` of a file, and the x `[Q]` of those without y."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader]
            columns = [str(name).strip().lower() for name in reader.fieldnames or []]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"expected {path} to be a text file of x,y rows.") from error
    if sorted(columns) != ["x", "y"]:
        raise ValueError(
            f"expected {path} to begin with the line x,y, found "
            f"{' '.join(','.join(columns).split()) or 'nothing'}."
        )
    known, asked = [], []
    for line, row in rows:
        if None in row:
            raise ValueError(f"expected two cells in line {line} of {path}, got more.")
        row = {name.strip().lower(): (text or "").strip() for name, text in row.items()}
        x = _number(row["x"], "x", line, path)
        if row["y"]:
            known.append((x, _number(row["y"], "y", line, path)))
        else:
            asked.append(x)
    if not known:
        raise ValueError(f"expected at least one row with x and y in {path}, got none.")
    if not asked:
        raise ValueError(
            f"expected at least one row without y in {path}, an x to predict, such as "
            f"`{known[0][0]:g},`; got none."
        )
    return np.array(known, np.float32), np.array(asked, np.float32)


def _number(text, column, line, path):
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise ValueError(
            f"expected a number for {column} in line {line} of {path}, got {text!r}."
        )
    return number

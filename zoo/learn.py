"""`keras-meta learn`: new classes or a curve, from a few examples of the user's own."""

import csv

import numpy as np

from keras_meta import files, zoo
from keras_meta.zoo import choice, console, named, predictions

PICTURES = (".png", ".pdf", ".svg", ".jpg")
LEARNED = "predictions.png"
# More queries than this are in the table alone.
DRAWN_QUERIES = 150
# Queries of one call: bounds the memory that a folder of thousands takes.
QUERIES_AT_ONCE = 500
AS_THEY_ARE = (
    "points were taken as they are, and curves unlike its own mean little to it"
)


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
    name = arguments.model
    # A task for no model is told before the wait.
    named.check(name) if name else choice.for_images(len(classes), 1)
    km = console.start()
    from keras_meta import plots

    classes, examples, asked, skipped = read_folders(support, queries)
    paths = sum(examples, [])
    if out.resolve() in [path.resolve() for path in paths + asked]:
        raise ValueError(f"expected --out to be none of the images, got {out}.")
    say.keep_apart(*paths, *asked)
    reason = None
    if not name:
        card, reason = choice.for_images(len(classes), len(paths) / len(classes))
        name = card.name
    learner = named.image_learner(name)
    if learner.label_shape:
        raise ValueError(
            f"expected a model of integer labels, those of {name} are strings."
        )
    named.check_ways(learner, name, len(classes))

    photographs, small = 0, []
    for path in paths + asked:
        image = files.load_image(path)
        # A model whose drawings need no inversion knows photographs.
        photographs += learner.preprocess.invert and _is_photograph(km, image)
        small.append(learner.preprocess.resize(image))
    small = np.stack(small)
    support, query = small[: len(paths)], small[len(paths) :]
    support_y = np.repeat(range(len(classes)), [len(each) for each in examples])
    probabilities = predictions.classify(
        learner, support, support_y, query, QUERIES_AT_ONCE
    )

    names = [folder.name for folder in classes]
    labels = predictions.known_labels(asked, queries, names)
    if reason:
        say.print(reason)
    say.print(
        f"{name} learned {len(classes)} classes from {len(paths)} images",
        style="bold",
    )
    shown = [path.relative_to(queries).as_posix() for path in asked]
    predictions.show_classes(say, name, names, shown, labels, probabilities)
    # One in five or so is not recognised; a few among drawings are a mistake of ours.
    drawings = photographs < len(small) / 2
    if not drawings:
        say.print(
            f"Note: these look like photographs. {name} knows drawn characters, "
            "and its answers on photographs mean little."
        )
    _say_inks(say, learner.preprocess, support, query, drawings)
    say_skipped(say, skipped)
    if learner.normalization == "transductive":
        say.print("Note: the model is transductive: each answer depends on all images.")
    figure = plots.predictions(
        support,
        support_y,
        query[:DRAWN_QUERIES],
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
    classes, _ = files.listed(support, folders=True)
    if len(classes) < 2:
        raise ValueError(
            f"expected at least two sub-folders of images, one for each class, in "
            f"{support}, found {len(classes)}."
        )
    return classes


def read_folders(support, queries):
    """The image files of a task, and what else is in its folders.

    Returns:
        `(classes, [files of each class], files to classify, skipped)`: paths, and
        `[(path, reason)]`.

    Raises:
        ValueError: a folder that is missing, or has no images or too few classes.
    """
    classes = class_folders(support)
    _, skipped = files.listed(support, folders=True)
    examples = []
    for folder in classes:
        found, others = files.listed(folder)
        if not found:
            raise ValueError(files.none_found("images", folder, others))
        examples.append(found)
        skipped += others
    if not queries.is_dir():
        raise ValueError(f"expected images to classify in {queries}, found no folder.")
    # The picture of an earlier call is no query.
    found, others = files.listed(queries)
    asked = [path for path in found if path.name != LEARNED]
    others += [
        (p, "the picture of an earlier call") for p in found if p.name == LEARNED
    ]
    labelled = predictions.labelled_folders(support, queries, classes)
    others = [(path, why) for path, why in others if path not in labelled]
    for folder in labelled:
        found, more = files.listed(folder)
        asked, others = asked + found, others + more
    if not asked:
        raise ValueError(files.none_found("images to classify", queries, others))
    return classes, examples, asked, skipped + others


def say_skipped(say, skipped):
    """Says which files of the folders are not used, and why."""
    for note in files.notes(skipped):
        say.print(f"Note: {note}.")


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


def _is_photograph(km, image):
    """Whether an image seems to be a photograph, and no drawing.

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
            return True
        # Light that falls from a side is a plane; look again without it.
        plane = np.linalg.lstsq(places[ground], pixels[ground], rcond=None)[0]
        pixels = pixels - places @ plane
    inside = _within(light if light.sum() > dark.sum() else dark)
    return (
        min(dark.mean(), light.mean()) > 0.05
        or pixels[ground].std(axis=0).mean() > 0.1 * contrast
        or (inside.mean() > 0.05 and pixels[inside].std(axis=0).mean() > 0.1 * contrast)
    )


def _within(mask):
    """The places of a mask `[H, W]` whose eight neighbours are in it too."""
    padded = np.pad(mask, 1)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).all(axis=(2, 3))


def _say_inks(say, prepare, support, query, drawings):
    """Says what was done to ink that is lighter than its ground, or to most of it."""
    from keras_meta import images

    inverts = bool(prepare.inverts(support[None])[0])
    inks = "dark ink on a light ground", "light ink on a dark ground"
    most, others = inks if inverts else inks[::-1]
    if inverts != prepare.invert:
        say.print(
            f"Note: most examples are {most}; all images were inverted, for the model "
            f"knows {others}."
        )
    tones = images.ink_tones(np.concatenate([support, query])).numpy()
    unlike = int(np.sum(tones == (1 if inverts else -1)))
    if drawings and prepare.detect and unlike:
        say.print(
            f"Note: {unlike} of {len(tones)} images seem to be {others}, unlike most "
            "examples: answers on them mean little."
        )


def _learn_points(arguments, say):
    known, asked = read_points(arguments.queries)
    name = arguments.model or choice.for_curves().name
    named.check(name)
    console.start()
    from keras_meta import plots

    learner = named.curve_learner(name)
    data = "what it was trained on" if named.is_file(name) else zoo.card(name).data
    low, high = min(known[:, 0].min(), asked.min()), max(known[:, 0].max(), asked.max())
    grid = np.linspace(low - 0.5 * (low == high), high + 0.5 * (low == high), 300)
    everywhere = np.concatenate([asked, grid])
    try:
        mean, scale = predicted(learner, known, everywhere)
    except ValueError as error:  # they are finite: what is learned of them is not
        raise ValueError(
            f"expected points like those of {data}: learning these diverged."
        ) from error

    points = f"{len(known)} point{'s' * (len(known) > 1)}"
    say.print(f"{name} learned a curve from {points}", style="bold")
    predictions.show_points(say, name, asked, mean, scale)
    if scale is not None:
        say.print("± and the band are two standard deviations of a new point.")
    say.print(f"It knows {data}; {units_note(learner.point_units)}.")
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


def predicted(learner, known, x):
    """What a learner predicts in the units of the points, by its `point_units`.

    Args:
        learner: for regression of one number from one.
        known: points `[S, 2]`.
        x: to be predicted, `[Q]`.

    Returns:
        `(mean [Q], scale [Q] or None)`.
    """
    support_x, support_y, x = known[None, :, :1], known[None, :, 1:], x[None, :, None]
    units = learner.point_units
    if units is None:
        outputs = learner.infer(learner.adapt(support_x, support_y), x)
    else:
        state = units.adapt(learner, support_x, support_y)
        outputs = units.infer(learner, state, x)
    if isinstance(outputs, tuple):
        return [each.numpy()[0, :, 0] for each in outputs]
    return outputs.numpy()[0, :, 0], None


def units_note(units):
    """What was done to the points of a curve: by `StandardUnits`, or nothing (None)."""
    if units is None:
        return AS_THEY_ARE
    return (
        f"the known x were scaled to [-{units.known:g}, {units.known:g}], and y to "
        "mean 0 and spread 1, for it"
    )


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
    return np.array(known), np.array(asked)


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

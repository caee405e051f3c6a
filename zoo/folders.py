"""The image files of a task, in folders: classes, queries, and what is skipped."""

import dataclasses
import itertools
import pathlib

import numpy as np

from keras_meta import files

# The picture that `keras-meta learn` writes by default, which is not a query.
PICTURE = "predictions.png"


@dataclasses.dataclass(frozen=True)
class Task:
    """The image files of a task.

    Attributes:
        classes: names of the classes.
        examples: the support examples of each class, lists of paths.
        queries: the images to classify, paths.
        names: of the queries, relative to their folder.
        labels: the class of each query that lies in a sub-folder named after it, or
            None.
        skipped: `[(path, reason)]` of the other files.
    """

    classes: list[str]
    examples: list[list[pathlib.Path]]
    queries: list[pathlib.Path]
    names: list[str]
    labels: list[int | None]
    skipped: list[tuple[pathlib.Path, str]]

    @property
    def support(self):
        """All support examples, class by class."""
        return list(itertools.chain.from_iterable(self.examples))

    @property
    def support_labels(self):
        """The class of each support example, `[S]`."""
        return np.repeat(np.arange(len(self.examples)), list(map(len, self.examples)))


def locate(queries, support):
    """The folders of support examples and of queries.

    Args:
        queries: the folder of a command's DIR.
        support: the folder of `--support`, or None.

    Raises:
        ValueError: no `--support`, and DIR has no folders support and query.
    """
    if support is not None:
        return support, queries
    support, query = queries / "support", queries / "query"
    if not support.is_dir() or not query.is_dir():
        raise ValueError(
            "expected --support DIR, a sub-folder of images for each class; or the "
            f"folders support and query in {queries}."
        )
    return support, query


def classes(support):
    """The sub-folders of a folder of support examples.

    Raises:
        ValueError: no such folder, or fewer than two sub-folders.
    """
    return _classes(support)[0]


def _classes(support):
    """The sub-folders, and what else is in the folder."""
    check_folder(support)
    folders, skipped = files.listed(support, folders=True)
    check_classes(len(folders), support)
    return folders, skipped


def check_folder(directory):
    """Raises ValueError if there is no folder at a path."""
    if not directory.is_dir():
        raise ValueError(f"expected a folder of classes, got none at {directory}.")


def check_classes(count, directory):
    """Raises ValueError if a folder has fewer than two sub-folders of images."""
    if count < 2:
        raise ValueError(
            f"expected at least two sub-folders of images in {directory}, one for each "
            f"class, got {count}."
        )


def read(support, queries):
    """The image files of a task.

    Args:
        support: a folder with a sub-folder of images for each class.
        queries: a folder of images; also in sub-folders named as the classes.

    Returns:
        A `Task`.

    Raises:
        ValueError: a folder that is missing, or has no images or too few classes.
    """
    folders, skipped = _classes(support)
    inside = [f.name for f in folders if queries.is_dir() and queries.samefile(f)]
    if inside:
        raise ValueError(
            f"expected images to classify outside the classes in {support}, got its "
            f"sub-folder {inside[0]}."
        )
    names = [folder.name for folder in folders]
    examples = []
    for folder in folders:
        paths, others = files.listed(folder)
        if not paths:
            raise ValueError(files.none_found("images", folder, others))
        examples.append(paths)
        skipped += others
    if not queries.is_dir():
        raise ValueError(f"expected images to classify in {queries}, got no folder.")
    paths, others = files.listed(queries)
    images = [path for path in paths if path.name != PICTURE]
    others += [
        (path, "the picture of an earlier call")
        for path in paths
        if path.name == PICTURE
    ]
    labelled = _labelled(support, queries, names)
    others = [(path, why) for path, why in others if path not in labelled]
    for folder in labelled:
        paths, more = files.listed(folder)
        images, others = images + paths, others + more
    if not images:
        raise ValueError(files.none_found("images to classify", queries, others))
    return Task(
        classes=names,
        examples=examples,
        queries=images,
        names=[path.relative_to(queries).as_posix() for path in images],
        labels=[
            None if path.parent == queries else names.index(path.parent.name)
            for path in images
        ],
        skipped=skipped + others,
    )


def _labelled(support, queries, names):
    """The sub-folders of a folder of queries, which are named as classes.

    Raises:
        ValueError: some sub-folders have the names of classes and others do not.
    """
    if queries.samefile(support):  # its sub-folders have the support examples
        return []
    folders = [
        path
        for path in files.listed(queries, folders=True)[0]
        if not path.samefile(support)
    ]
    labelled = [folder for folder in folders if folder.name in names]
    others = [folder.name for folder in folders if folder.name not in names]
    if labelled and others:
        raise ValueError(
            f"expected the sub-folders of {queries} to be named as classes of "
            f"{support}, got {', '.join(others[:3])}."
        )
    return labelled


def report_skipped(output, skipped):
    """Reports which files of the folders are not used, and why.

    Args:
        output: a `console.Output`.
        skipped: `[(path, reason)]`.
    """
    for note in files.notes(skipped):
        output.print(f"Note: {note}.")

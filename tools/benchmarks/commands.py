"""Wall time of `keras-meta learn`, `evaluate` and `demo`, by stage."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import rich.progress
from PIL import Image, ImageDraw

from benchmarks import harness

PROGRAM = pathlib.Path(__file__).with_name("stages.py")
COMMANDS = (
    "learn task",
    "learn points.csv",
    "evaluate maml.glyphs_5w1s-inductive --episodes 100",
    "evaluate maml.sinusoid --episodes 100",
    "demo",
)
CLASSES, QUERIES = 5, 3
POINTS = "x,y\n-2,0.1\n-1,-0.8\n0,0.1\n1,0.9\n1.5,1\n-0.5,\n0.5,\n"


def draw(folder):
    """Writes a task for `learn`: a support image of each class, and query images."""
    for label in range(CLASSES):
        strokes = np.random.RandomState(label).uniform(15, 90, [5, 2])
        for index in range(1 + QUERIES):
            jitter = np.random.RandomState(index).uniform(-4, 4, strokes.shape)
            image = Image.new("L", (105, 105), 255)
            points = [tuple(point) for point in strokes + jitter]
            ImageDraw.Draw(image).line(points, fill=0, width=4)
            path = folder / "query" / f"{label}-{index}.png"
            if index == 0:
                path = folder / "support" / f"class {label}" / "0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)


def measure(command, folder):
    """Measures the seconds of a command by stage, and of `exit` and `total`.

    Raises:
        SystemExit: the command failed.
    """
    report = folder / "stages.json"
    arguments = [str(time.time()), str(report), *command.split()]
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-P", str(PROGRAM), *arguments],
        cwd=folder,
        env=os.environ | {"TFDS_DATA_DIR": str(folder)},  # `demo` draws glyphs
        capture_output=True,
        text=True,
    )
    total = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"benchmark: error: keras-meta {command} failed: {process.stderr}")
    seconds = json.loads(report.read_text(encoding="utf-8"))
    return {**seconds, "exit": total - sum(seconds.values()), "total": total}


def table():
    rows = []
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)
        draw(folder / "task")
        (folder / "points.csv").write_text(POINTS, encoding="utf-8")
        for command in rich.progress.track(COMMANDS, "measuring"):
            measure(command, folder)  # fills the file cache
            runs = [measure(command, folder) for _ in range(harness.FLAGS.rounds)]
            medians = {
                f"{stage}, s": round(statistics.median(run[stage] for run in runs), 2)
                for stage in runs[0]
            }
            rows.append({"command": command, **medians})
    title = (
        f"Wall time of keras-meta commands, {CLASSES} classes of 1 image or 5 points "
        f"for learn, {harness.usable_cores()} cores"
    )
    note = "demo starts a second process, which imports TensorFlow: part of its run."
    return harness.Table(title, rows, (note,))

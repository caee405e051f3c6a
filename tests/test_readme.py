"""Runs the programs of the README; parses the commands of README and docs."""

import pathlib
import re
import shlex

import numpy as np
import PIL.Image
import pytest

from keras_meta.zoo import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PAGES = [
    README,
    *(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")),
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function: it runs a program in a new folder and returns its globals."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "keras_meta.runtime.configure", lambda: None
    )  # already configured

    def run(program):
        names = {}
        exec(compile(program, "README.md", "exec"), names)
        return names

    return run


@pytest.mark.thorough
def test_first_program(run, tmp_path):
    names = run(PROGRAMS[0])
    assert names["logits"].shape == (1, 75, 5)
    assert (tmp_path / "served" / "glyphs" / "1" / "saved_model.pb").exists()


def test_program_for_own_images(run):
    names = run(PROGRAMS[1])
    assert names["classes"].shape == (1, 8)
    assert names["query_x"].shape == (1, 8, 28, 28, 1)


@pytest.mark.thorough
def test_training_program(run, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, [120, 16, 28, 28], "uint8")
    for class_name, class_images in enumerate(images):
        (tmp_path / "alphabets" / str(class_name)).mkdir(parents=True)
        for number, image in enumerate(class_images):
            PIL.Image.fromarray(image).save(f"alphabets/{class_name}/{number}.png")
    program = PROGRAMS[2]
    assert "steps_per_epoch=1000)" in program and "steps=60)" in program
    program = program.replace("=1000)", "=2)").replace("steps=60)", "steps=2)")
    names = run(program)
    assert int(names["learner"].optimizer.iterations) == 2
    assert names["train"].shape == (28, 28, 1)


def commands(page):
    """Yields the commands of a page, each as a list of arguments."""
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                program, *_ = command.split(" > ")  # without the output file
                yield shlex.split(program, comments=True)


def test_every_program_is_run():
    assert len(PROGRAMS) == 3
    # Programs of the docs are cells, which run when the site is built.
    assert not any("```python" in page for page in PAGES[1:])


@pytest.mark.parametrize(
    "command",
    sorted({tuple(line) for page in PAGES for line in commands(page) if line}),
    ids=" ".join,
)
def test_commands_are_valid(command):
    if command[0] == "keras-meta":
        cli._parser().parse_args(command[1:])  # exits if invalid
    elif command[0] == "python" and command[1] != "-m":
        tool, *options = command[1:]
        text = (ROOT / tool).read_text(encoding="utf-8")
        for option in options:
            if option.startswith("--"):
                name = option[2:].partition("=")[0]
                assert re.search(rf'flags\.DEFINE_\w+\(\s*"{name}"', text), option
    else:
        programs = "git", "cd", "pip", "python", "docker"
        assert command[0] in programs or command[0].startswith("FUZZ")

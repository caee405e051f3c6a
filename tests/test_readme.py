"""The README's programs run as they stand, its commands are as they are told."""

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
    """Runs a program in a folder of its own, and gives its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keras_meta.runtime.configure", lambda: None)  # done already

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


@pytest.mark.thorough
def test_second_program(run, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, [120, 16, 28, 28], "uint8")
    for name, drawn in enumerate(images):
        (tmp_path / "alphabets" / str(name)).mkdir(parents=True)
        for number, image in enumerate(drawn):
            PIL.Image.fromarray(image).save(f"alphabets/{name}/{number}.png")
    program = PROGRAMS[1]
    assert "steps_per_epoch=1000)" in program and "steps=60)" in program
    program = program.replace("=1000)", "=2)").replace("steps=60)", "steps=2)")
    names = run(program)
    assert int(names["learner"].optimizer.iterations) == 2
    assert names["train"].shape == (28, 28, 1)


def commands(page):
    """The commands of a page, a list of words each."""
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                program, *_ = command.split(" > ")  # without a file for its output
                yield shlex.split(program, comments=True)


def test_every_program_is_run():
    assert len(PROGRAMS) == 2
    # The docs' are cells, which run when the site is built.
    assert not any("```python" in page for page in PAGES[1:])


@pytest.mark.parametrize(
    "words",
    sorted({tuple(words) for page in PAGES for words in commands(page) if words}),
    ids=" ".join,
)
def test_commands_are_as_they_are_told(words):
    if words[0] == "keras-meta":
        cli._parser().parse_args(words[1:])  # or it exits
    elif words[0] == "python" and words[1] != "-m":
        tool, *options = words[1:]
        text = (ROOT / tool).read_text(encoding="utf-8")
        for option in options:
            if option.startswith("--"):
                name = option[2:].partition("=")[0]
                assert re.search(rf'flags\.DEFINE_\w+\(\s*"{name}"', text), option
    else:
        known = "git", "cd", "pip", "python", "docker"
        assert words[0] in known or words[0].startswith("FUZZ")

"""The wheel: what is in it, and that it works elsewhere."""

import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import keras_meta

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*command, **kwargs):
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel(tmp_path):
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".git", "runs", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignore)
    pip = [sys.executable, "-m", "pip"]
    run(
        *pip,
        "wheel",
        str(source),
        "--no-deps",
        "--no-build-isolation",  # works with the network off
        f"--wheel-dir={tmp_path}",
    )
    (wheel,) = tmp_path.glob("keras_meta-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if "dist-info" not in top} == {"keras_meta"}
    assert "keras_meta/zoo/models/maml.sinusoid/model.keras" in names
    assert "keras_meta/py.typed" in names
    # All that a user is told to run.
    commands = (ROOT / "zoo" / "commands").glob("*.py")
    assert {f"keras_meta/zoo/commands/{path.name}" for path in commands} <= set(names)

    target = tmp_path / "installed"
    run(*pip, "install", "--no-deps", "--no-index", f"--target={target}", str(wheel))
    program = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "from keras_meta import zoo\n"
        f"assert zoo.__file__.startswith({str(target)!r}), zoo.__file__\n"
        "learner = zoo.load('maml.sinusoid')\n"
        "print(learner.adapt([[[0.0]]], [[[1.0]]])['weights'][0].shape)"
    )
    command = program.partition("from keras_meta")[0] + (
        "from keras_meta.zoo import cli, commands\n"
        f"assert commands.__file__.startswith({str(target)!r}), commands.__file__\n"
        "cli.main(['train', '--help'])"
    )
    assert "--publish" in run(sys.executable, "-c", command, cwd=tmp_path)
    # An editable install of the project is shadowed by the path put first.
    assert "(1, 1, 40)" in run(sys.executable, "-c", program, cwd=tmp_path)


def test_the_zoo_is_imported_as_a_part_of_the_package():
    # From the root of a checkout `import zoo` succeeds, as a second copy of the module.
    names = run("git", "ls-files", "*.py", "*.md", "*.ipynb", cwd=ROOT).splitlines()
    paths = [ROOT / name for name in names]
    wrong = re.compile(r"\bfrom zoo\b|(?<!keras_meta )\bimport zoo\b")
    told = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in paths
        if path.name != "CHANGELOG.md" and path != pathlib.Path(__file__)
        for line in path.read_text(encoding="utf-8").splitlines()
        if wrong.search(line)
    ]
    assert told == []


def test_one_module_of_the_library_imports_the_zoo():
    names = [
        path.name
        for path in (ROOT / "keras_meta").rglob("*.py")
        if re.search(r"keras_meta(\.zoo| import .*\bzoo\b)", path.read_text("utf-8"))
    ]
    assert names == ["__main__.py"]


@pytest.mark.parametrize(
    "program",
    [
        "import keras_meta, keras",
        "import keras, keras_meta",
        "import keras_meta; keras_meta.MAML; import keras",
        "import keras_meta.zoo.training, keras",
        "from keras_meta import runtime; import keras",
        "import keras_meta.metrics, keras_meta; keras_meta.export; import keras",
    ],
)
def test_importing_the_package_registers_the_learners_with_keras(program):
    program += "; print(keras.saving.get_registered_object('keras_meta>MAML'))"
    assert "keras_meta.learners.maml.MAML" in run(sys.executable, "-c", program)


def test_the_command_is_a_module_too():
    version = run(sys.executable, "-m", "keras_meta", "--version")
    assert version == f"keras-meta {keras_meta.__version__}\n"
    assert "maml.sinusoid" in run(sys.executable, "-m", "keras_meta", "list")


def test_names_that_are_not_there():
    assert {"MAML", "export", "finetune", "tasks"} <= set(dir(keras_meta))
    with pytest.raises(AttributeError, match="has no attribute 'MAMl'"):
        keras_meta.MAMl  # noqa: B018

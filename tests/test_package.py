"""Tests of the wheel: its contents, types, and use outside the repository."""

import os
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
    process = subprocess.run(command, capture_output=True, text=True, **kwargs)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


# mypy reports the error code in a line's comment, and no error in other lines.
TYPED = """
import numpy as np

import keras_meta as km
from keras_meta import plots, zoo

network = km.networks.mlp((28, 28, 1), outputs=5)
images, labels = np.zeros([40, 28, 28, 1], "uint8"), np.arange(40) // 4
pool = km.ClassPool.from_arrays(images, labels, prepare=km.ImagePreprocess(28, 28))
train, test = pool.split_classes(6, 4, seed=0)
learner = km.MAML(network, inner_rate=0.1, point_units=None, name="maml")
learner.compile("adam", metrics=[km.metrics.EpisodeAccuracy()])
learner.fit(train.episodes(ways=5).batch(2), steps_per_epoch=1)
learner.evaluate(test.episodes(ways=3).batch(2), steps=1, return_dict=True)["loss"]
learner = learner.with_classes(3)
state = learner.adapt(np.zeros([1, 3, 28, 28, 1]), [[0, 1, 2]])
learner.infer(state, np.zeros([1, 2, 28, 28, 1])).numpy()
km.finetune(learner, images[:3], [0, 1, 2]).fit(images[:3], [0, 1, 2])
km.export(learner, "served/maml").name.upper()
scales = km.SigmaIMAML(network, damping=0.1, frozen=["head"]).scales()
plots.fit([0.0], [1.0], grid=[0.0], mean=[1.0]).savefig("fit.png")
km.batch_norm.estimate(zoo.load(zoo.list_models()[0].name), test.episodes().take(1))

km.MAML(network, inner_rate="fast")  # arg-type
km.IMAML(network, inner_rate="fast")  # arg-type
km.SigmaIMAML(network, damping="none")  # arg-type
km.ANIL(network, rate=0.1)  # call-arg
km.CNP(network)  # call-arg
km.MAMl(network)  # attr-defined
learner.adapt(images)  # call-arg
learner.fit(train.episodes(), class_weight={0: 2.0})  # arg-type
pool.episodes(ways="five")  # arg-type
scales.append(1.0)  # attr-defined
zoo.load(3)  # arg-type
"""


def check_types(target, folder):
    """Checks `TYPED` and the public modules of the zoo with mypy and a wheel.

    In a checkout the zoo is in another folder, where mypy finds no `keras_meta.zoo`.
    """
    (folder / "typed.py").write_text(TYPED, encoding="utf-8")
    modules = ("typed", *("keras_meta.zoo" + m for m in ("", ".cards", ".scores")))
    mypy = subprocess.run(
        [sys.executable, "-m", "mypy", f"--config-file={ROOT / 'pyproject.toml'}"]
        + [f"--module={module}" for module in modules],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(target)},
    )
    errors = re.findall(r"^(.*?):(\d+): error: .*\[(.*)\]$", mypy.stdout, re.MULTILINE)
    expected = [
        ("typed.py", str(number), line.partition("  # ")[2])
        for number, line in enumerate(TYPED.splitlines(), start=1)
        if "  # " in line
    ]
    assert errors == expected, mypy.stdout + mypy.stderr


@pytest.mark.thorough
def test_wheel(tmp_path):
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(
        ".git", ".mypy_cache", "runs", "build", "*.egg-info"
    )
    shutil.copytree(ROOT, source, ignore=ignore)
    pip = [sys.executable, "-m", "pip"]
    run(
        *pip,
        "wheel",
        str(source),
        "--no-deps",
        "--no-build-isolation",  # works without internet access
        f"--wheel-dir={tmp_path}",
    )
    (wheel,) = tmp_path.glob("keras_meta-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if "dist-info" not in top} == {"keras_meta"}
    assert "keras_meta/zoo/models/maml.sinusoid/model.keras" in names
    assert "keras_meta/py.typed" in names
    # The wheel contains all commands.
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
    # The first entry of sys.path takes precedence over an editable install.
    assert "(1, 1, 40)" in run(sys.executable, "-c", program, cwd=tmp_path)
    check_types(target, tmp_path)


def test_the_zoo_is_imported_as_a_part_of_the_package():
    # In the root of a checkout, `import zoo` imports a second copy of the module.
    names = run("git", "ls-files", "*.py", "*.md", "*.ipynb", cwd=ROOT).splitlines()
    paths = [ROOT / name for name in names]
    wrong_import = re.compile(r"\bfrom zoo\b|(?<!keras_meta )\bimport zoo\b")
    matches = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in paths
        if path.name != "CHANGELOG.md" and path != pathlib.Path(__file__)
        for line in path.read_text(encoding="utf-8").splitlines()
        if wrong_import.search(line)
    ]
    assert matches == []


def test_one_module_of_the_library_imports_the_zoo():
    names = [
        path.name
        for path in (ROOT / "keras_meta").rglob("*.py")
        if re.search(r"keras_meta(\.zoo| import .*\bzoo\b)", path.read_text("utf-8"))
    ]
    assert names == ["__main__.py"]


@pytest.mark.thorough
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


def test_the_command_runs_as_a_module():
    version = run(sys.executable, "-m", "keras_meta", "--version")
    assert version == f"keras-meta {keras_meta.__version__}\n"
    assert "maml.sinusoid" in run(sys.executable, "-m", "keras_meta", "list")


def test_unknown_names_raise_an_attribute_error():
    assert {"MAML", "export", "finetune", "tasks"} <= set(dir(keras_meta))
    with pytest.raises(AttributeError, match="has no attribute 'MAMl'"):
        keras_meta.MAMl  # noqa: B018

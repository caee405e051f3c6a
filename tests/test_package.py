"""The wheel: what is in it, and that it works elsewhere."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

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
    assert {top for top in tops if "dist-info" not in top} == {"keras_meta", "zoo"}
    assert "zoo/models/maml.sinusoid/model.keras" in names

    target = tmp_path / "installed"
    run(*pip, "install", "--no-deps", "--no-index", f"--target={target}", str(wheel))
    program = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import zoo\n"
        f"assert zoo.__file__.startswith({str(target)!r}), zoo.__file__\n"
        "learner = zoo.load('maml.sinusoid')\n"
        "print(learner.adapt([[[0.0]]], [[[1.0]]])['weights'][0].shape)"
    )
    # An editable install of the project is shadowed by the path put first.
    assert "(1, 1, 40)" in run(sys.executable, "-c", program, cwd=tmp_path)

"""`merge` of parts of an evaluation returns the scores of the whole evaluation."""

import json

import numpy as np
import pytest

from keras_meta.zoo import cli, merging

IMAGES = "maml.glyphs_5w1s-inductive"


def evaluate(capsys, *argv):
    assert cli.main(["evaluate", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [IMAGES, "maml.sinusoid"])
def test_merged_parts_equal_one_evaluation(tmp_path, capsys, name):
    sizes = "--queries=3", "--seed=7"
    whole = evaluate(capsys, name, *sizes, "--count=44")
    # Any order of parts is valid. The parts have whole batches; batching does not
    # affect scores.
    for file_name, first in (("a", 20), ("b", 0)):
        count = 24 if first else 20
        document = evaluate(
            capsys, name, *sizes, f"--first={first}", f"--count={count}"
        )
        (tmp_path / file_name).write_text(json.dumps(document))
    files = [str(tmp_path / file_name) for file_name in "ab"]
    assert cli.main(["merge", *files, "--json"]) == 0
    merged = json.loads(capsys.readouterr().out)
    assert merged.keys() == whole.keys()
    for key in whole.keys() - {"seconds", "bins"}:
        assert merged[key] == whole[key], key
    for key, sums in whole["bins"].items():
        np.testing.assert_allclose(merged["bins"][key], sums, atol=1e-12)
    # The parts have different tasks, so the test detects a missing part.
    assert document["tasks"] == whole["tasks"][:20]
    assert cli.main(["merge", *files]) == 0
    assert "95% interval over 44 tasks, seed 7; " in capsys.readouterr().out
    assert cli.main(["merge", files[0]]) == 0
    assert "over 24 tasks, seed 7, from task 20 on; " in capsys.readouterr().out


def make_part(first=0, episodes=2, **changes):
    fields = dict.fromkeys(merging.OF_A_PART, 0.5)
    fields |= {"model": "m", "metric": "accuracy", "seed": 0, "bins": {}}
    fields |= {"data": "zoo", "normalization": "inductive", "queries": 15}
    fields |= {"ways": 5, "shots": 1}
    tasks = [0.5] * episodes
    return {**fields, "first": first, "episodes": episodes, "tasks": tasks, **changes}


@pytest.mark.parametrize(
    ("second_part", "message"),
    [
        (make_part(2, seed=1), "parts of one evaluation, got seed = 0 and 1"),
        (
            make_part(1),
            "got common tasks: one ends before task 2, the next begins at task 1",
        ),
        (make_part(3), "got missing tasks"),
        ({"model": "m"}, "got JSON without the field bins"),
        ([], "the output of `keras-meta evaluate --json`"),
    ],
)
def test_parts_of_different_evaluations_are_rejected(
    tmp_path, capsys, second_part, message
):
    files = []
    for name, document in (("a", make_part()), ("b", second_part)):
        files.append(tmp_path / name)
        files[-1].write_text(json.dumps(document))
    assert cli.main(["merge", *map(str, files)]) == 2
    assert message in capsys.readouterr().err


def test_invalid_and_missing_files_are_rejected(tmp_path, capsys):
    (tmp_path / "a").write_text("accuracy: 1")
    assert cli.main(["merge", str(tmp_path / "a")]) == 2
    assert "expected JSON in" in capsys.readouterr().err
    assert cli.main(["merge", str(tmp_path / "b")]) == 2
    assert "No such file" in capsys.readouterr().err
    fields = ["model", "metric", *merging.OF_A_PART, *merging.LISTS]
    (tmp_path / "c").write_text(json.dumps(dict.fromkeys(fields, 1)))
    assert cli.main(["merge", str(tmp_path / "c")]) == 2
    assert "without the field data" in capsys.readouterr().err

"""Tests of the benchmarks: equal losses of peers, times, stages, publishing."""

import csv
import json
import pathlib
import types

import benchmark
import numpy as np
import pytest
import tensorflow as tf
from benchmarks import flops, harness, problems, sides, stages, suite

ROOT = pathlib.Path(__file__).resolve().parents[1]

SMALL = {"tasks": 2, "queries": 2}
RESNET12 = {"encoder": "resnet12", "filters": (3, 4, 5, 6), "size": 16, "shots": 2}
CONV4 = {"encoder": "conv4", "filters": 4, "size": 16, "shots": 2}
CASES = [
    ("protonet", {**CONV4, **SMALL}),
    ("protonet", {**RESNET12, **SMALL}),
    ("cnp_classes", {**CONV4, **SMALL}),
    ("supervised", {"filters": (3, 4, 5, 6), "size": 16, "batch": 12}),
    ("imaml", {"filters": 4, "inner_steps": 3, "conjugate_steps": 3, **SMALL}),
]


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "name, settings", CASES, ids=["-".join([n, s.get("encoder", "")]) for n, s in CASES]
)
def test_peers_match_loss_and_gradient(name, settings, channels_last, tmp_path):
    pytest.importorskip("torch", reason="expected torch, the peer of the benchmarks")
    import peers_torch
    from peers_torch import layout

    problem = problems.build(name, **settings)
    path = tmp_path / "case.npz"
    sides.write(name, path, settings)
    weights, episode, query_y, options = sides.read(path)
    layout_options = {"channels_last": channels_last} if "paths" in options else {}
    if channels_last and not layout_options:
        pytest.skip("the peer has one layout")
    step, parameters = peers_torch.CASES[name](
        weights, episode, query_y, rate=1e-3, **options, **layout_options
    )
    variables = []

    @tf.function
    def meta_gradient():
        loss, gradients, trained, _ = problem.learner.meta_gradient(episode, query_y)
        variables.extend(trained)
        return loss, gradients

    loss, gradients = meta_gradient()
    # Tolerance: float32 rounding in batch statistics of a few images.
    assert step() == pytest.approx(float(loss), rel=1e-4)
    by_variable = dict(zip(map(id, variables), gradients, strict=True))
    trained = problem.learner.trainable_variables
    assert len(parameters) == len(trained)
    for parameter, variable in zip(parameters, trained, strict=True):
        expected = by_variable[id(variable)].numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            layout.array(parameter.grad),
            expected,
            rtol=1e-2,
            atol=2e-3 * scale + 1e-7,
            err_msg=variable.path,
        )
    assert max(np.abs(g.numpy()).max() for g in gradients) > 1e-3


def side(library, form="", threads="1 thread"):
    return harness.Side(library, form, threads, None, {})


def test_a_comparison_is_relative_to_the_fastest_side_of_keras_meta():
    compared_sides = [
        side("keras-meta", threads="1"),
        side("keras-meta", threads="2"),
        side("PyTorch", "channels first"),
        side("PyTorch", "channels last"),
    ]
    seconds = [0.5, 0.25, 1.0, 0.375]
    rows = harness.compared(compared_sides, seconds, {"images a second": 100})
    assert [row["relative time"] for row in rows] == [2.0, 1.0, 4.0, 1.5]
    assert [row["images a second"] for row in rows] == [200.0, 400.0, 100.0, 266.7]
    assert [row["ms a step"] for row in rows] == [500.0, 250.0, 1000.0, 375.0]
    assert harness.verdict(compared_sides, seconds, "PyTorch") == (
        "PyTorch, channels last (1 thread) takes 1.50 times the time of keras-meta (2)"
    )


def test_sides_with_different_losses_are_rejected():
    compared_sides = [side("keras-meta"), side("PyTorch"), side("peak")]
    harness.check_losses(compared_sides, [[1.0, 0.5], [1.01, 0.505], [None, None]])
    with pytest.raises(AssertionError, match="PyTorch"):
        harness.check_losses(compared_sides, [[1.0, 0.5], [1.0, 0.52], [None, None]])


def test_interleaved_times_exclude_the_warm_up(monkeypatch):
    now, called = [0.0], []

    def call(name, *durations):
        durations = iter(durations)

        def run():
            called.append(name)
            now[0] += next(durations)

        return run

    clock = types.SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(harness, "time", clock)
    calls = {"a": call("a", 100, 1, 2, 9), "b": call("b", 100, 5, 4, 3)}
    assert harness.interleaved(calls, 3, untimed=1) == {"a": 2, "b": 4}
    assert called == list("abababab")


def test_a_measurement_in_another_process():
    # Expected: five support images of 9 passes each, 75 queries of 3 passes each.
    assert harness.in_process(flops.maml, image=2, steps=1) == 540


def test_time_counts_for_the_innermost_stage(monkeypatch):
    now = [10.0]
    clock = {"time": lambda: now[0], "perf_counter": lambda: now[0]}
    monkeypatch.setattr(stages, "time", types.SimpleNamespace(**clock))
    measured = stages.Stages(began=8.0)

    def wait(seconds):
        now[0] += seconds

    def load():
        wait(1)
        imports(4)
        wait(2)

    imports = measured.timed("import", wait)
    measured.timed("load", load)()
    wait(16)
    with pytest.raises(TypeError):
        measured.timed("trace", wait)(None)
    wait(32)
    measured.enter("run")
    assert measured.seconds == {"import": 6, "load": 3, "trace": 0, "run": 48}


def test_every_benchmark_has_a_table_in_the_documentation():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in benchmark.BENCHMARKS.keys() - suite.PLACES.keys():
        assert f'table("{name}")' in page and f"--what={name}`" in page, name
        assert f"--what={name} " in benchmark.__doc__, name


def test_tables_are_stored_and_published(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "MEASURED", tmp_path)
    monkeypatch.setattr(suite, "HEADER", tmp_path / "benchmarks.json")
    monkeypatch.setattr(suite, "PLACES", {"adaptation": tmp_path / "other.csv"})
    table = harness.Table("title", [{"a": 1, "b": "x, y"}], ("A note.",))
    calls = []

    def measure():
        calls.append(1)
        return table

    path = tmp_path / "table.json"
    first, second = (suite.stored(path, measure) for _ in range(2))
    assert len(calls) == 1 and first == second
    assert (first.title, first.rows) == (table.title, table.rows)
    header = suite.header(
        {"processor": "P", "cores": 2, "system": "Linux"},
        {"Python": "3.11", "torch": "2"},
        commit="0123456789abcdef",
        date="2026-01-02",
    )
    suite.publish({"memory": first, "adaptation": table}, header)
    for name in ("memory", "other"):
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            assert list(csv.DictReader(file)) == [{"a": "1", "b": "x, y"}]
    document = json.loads((tmp_path / "benchmarks.json").read_text())
    assert document["notes"] == {"memory": ["A note."], "adaptation": ["A note."]}
    assert (
        document["header"]
        == header
        == (
            "All tables are the output of one run of `python tools/benchmark.py "
            "--what=all`, finished on 2026-01-02 at commit 0123456789. Machine: P, 2 "
            "cores, Linux. Versions: Python 3.11, torch 2."
        )
    )


def test_all_benchmarks_require_every_peer(monkeypatch, tmp_path):
    monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="torch and jax to be installed"):
        suite.run(benchmark.BENCHMARKS, tmp_path / "out")
    assert not (tmp_path / "out").exists()

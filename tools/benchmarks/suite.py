"""Runs all benchmarks on one machine; writes the tables of docs/benchmarks.md."""

import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import pathlib
import platform
import sys

from benchmarks import harness

ROOT = pathlib.Path(__file__).resolve().parents[2]
MEASURED = ROOT / "docs" / "measured"
# Tables for other pages than docs/benchmarks.md.
PLACES = {"adaptation": ROOT / "zoo" / "adaptation.csv"}
HEADER = MEASURED / "benchmarks.json"
PEERS = ("torch", "jax")
PACKAGES = ("keras-meta", "tensorflow", "keras", "numpy", *PEERS)


def processor():
    """Returns the name of the processor that the system reports."""
    cpu_info = pathlib.Path("/proc/cpuinfo")  # Linux
    if cpu_info.exists():
        for line in cpu_info.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def settings():
    """Returns machine and versions, which all tables of one header share."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "machine": {
            "processor": processor(),
            "cores": harness.usable_cores(),
            "system": platform.system(),
        },
        "versions": {"Python": platform.python_version(), **versions},
    }


def header(machine, versions, commit, date):
    """Returns the first paragraph of docs/benchmarks.md."""
    version_list = ", ".join(f"{name} {version}" for name, version in versions.items())
    commit = f" at commit {commit[:10]}" if commit else ""
    return (
        "All tables are the output of one run of `python tools/benchmark.py "
        f"--what=all`, finished on {date}{commit}. Machine: {machine['processor']}, "
        f"{machine['cores']} cores, {machine['system']}. Versions: {version_list}."
    )


def run(benchmarks, out):
    """Runs all benchmarks and publishes their tables.

    Each table is stored as soon as it is measured. The same command resumes an
    interrupted run. Tables are published after the last one is measured.

    Args:
        benchmarks: `{name: function that returns a harness.Table}`.
        out: folder for the run.

    Raises:
        SystemExit: a peer is not installed, a benchmark failed, or the folder contains
            a run on another machine or with other versions.
    """
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"benchmark: error: expected {' and '.join(PEERS)} to be installed, "
            f"{' and '.join(missing)} is missing: pip install -e '.[bench]'."
        )
    from keras_meta.zoo import runs

    folder, run_settings, tables = pathlib.Path(out), settings(), {}
    commit = runs.commit()
    try:
        with runs.claimed(folder):
            # Tables of one header are those of one state of the code.
            runs.record(folder, {**run_settings, "measured": commit})
            for number, (name, measure) in enumerate(benchmarks.items(), start=1):
                print(f"benchmark {number} of {len(benchmarks)}: {name}", flush=True)
                tables[name] = stored(folder / f"{name}.json", measure)
    except ValueError as error:
        sys.exit(f"benchmark: error: {error}")
    date = datetime.date.today().isoformat()
    publish(tables, header(**run_settings, commit=commit, date=date))


def stored(path, measure):
    """Reads a table from its file, or measures it and writes the file."""
    from keras_meta.zoo import atomic

    if not path.exists():
        table = measure()
        table.print()
        atomic.write_text(path, json.dumps(dataclasses.asdict(table)))
    return harness.Table(**json.loads(path.read_text(encoding="utf-8")))


def publish(tables, text):
    """Writes the CSV files of the tables, and their notes below one header."""
    for name, table in tables.items():
        table.write_csv(PLACES.get(name, MEASURED / f"{name}.csv"))
    notes = {name: list(table.notes) for name, table in tables.items() if table.notes}
    document = json.dumps({"header": text, "notes": notes}, indent=1)
    HEADER.write_text(document + "\n", encoding="utf-8")
    print(
        f"wrote {MEASURED} and {PLACES['adaptation']}; update zoo/README.md with "
        "python tools/make_results.py --models="
    )

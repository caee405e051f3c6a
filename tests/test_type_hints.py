"""Tests that public functions have hints for all arguments and the result.

`test_package.py` checks the hints of an installed wheel with mypy.
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Modules whose functions users call, or whose methods public classes inherit.
PUBLIC = [
    *("api", "applications", "augmentation", "batch_norm", "check", "episode_metric"),
    *("files", "findings", "fine_tuning", "images", "inner_loop", "learner", "losses"),
    *("memory", "metrics", "network", "networks", "ordered", "plot_images"),
    *("plot_predictions", "plots"),
    *("pool", "priors", "runtime", "saved_model", "settings", "solvers", "steps"),
    *("streams", "task_model", "task_network", "tasks", "traces", "trainer", "units"),
    *(f"learners.{path.stem}" for path in (ROOT / "keras_meta/learners").glob("*.py")),
    *("tasks.boolean_functions", "tasks.family", "tasks.gaussian_processes"),
    *("tasks.glyph_pool", "tasks.image_completion", "tasks.linear_models"),
    *("tasks.sine_waves", "zoo", "zoo.cards", "zoo.scores"),
]


def source(module):
    """Returns the path of the source of a module of `keras_meta`."""
    path = ROOT.joinpath("keras_meta", *module.split("."))
    if module.startswith("zoo"):
        path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def functions(body, prefix=()):
    """Yields the name and the definition of public functions and methods."""
    for node in body:
        if isinstance(node, ast.If):
            yield from functions([*node.body, *node.orelse], prefix)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            name = ".".join([*prefix, node.name])
            if node.name.startswith("_") and node.name not in ("__init__", "__call__"):
                continue
            if isinstance(node, ast.ClassDef):
                yield from functions(node.body, (*prefix, node.name))
            else:
                yield name, node


def missing_hints(text):
    """Lists arguments and results without hints in public functions, one per line."""
    lines = []
    for name, node in functions(ast.parse(text).body):
        signature = node.args
        arguments = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
        arguments += [arg for arg in (signature.vararg, signature.kwarg) if arg]
        lines += [
            f"{name}: {arg.arg}"
            for arg in arguments
            if arg.annotation is None and arg.arg not in ("self", "cls")
        ]
        lines += [f"{name}: its result"] if node.returns is None else []
    return lines


@pytest.mark.parametrize("module", PUBLIC)
def test_public_functions_have_complete_hints(module):
    assert missing_hints(source(module).read_text(encoding="utf-8")) == []


def test_missing_hints_lists_arguments_and_results():
    text = """
def whole(x: int, *args: int, key: str = "a", **kwargs: int) -> None: ...
def partial(x: int, /, y, *args, key="a", **kwargs) -> None: ...
def _private(x): ...
class Public:
    def __init__(self, x) -> None: ...
    def method(self, x: int): ...
    def _private(self, x): ...
class _Private:
    def method(self, x): ...
"""
    assert missing_hints(text) == [
        *(f"partial: {name}" for name in ("y", "key", "args", "kwargs")),
        *("Public.__init__: x", "Public.method: its result"),
    ]


def api_modules():
    """Returns the modules of all names in the API reference."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    modules = set()
    for name in re.findall(r"^\.\. auto\w+:: keras_meta\.(\S+)", text, re.MULTILINE):
        parts = [part for part in name.split(".") if part.islower()]  # no class
        while parts and not source(".".join(parts)).exists():
            parts.pop()
        modules.add(".".join(parts))
    return modules - {""}


def test_modules_of_the_api_reference_are_checked():
    assert {"learners.gradient", "metrics", "zoo.cards"} <= api_modules() <= set(PUBLIC)


def test_type_checkers_know_the_modules_of_the_api_reference():
    # At run time `keras_meta.__getattr__` imports them, which type checkers ignore.
    tree = ast.parse(source("").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "typing.TYPE_CHECKING"
    api = ast.parse(source("api").read_text(encoding="utf-8"))
    imported = {
        alias.asname
        for node in [*block.body, *api.body]
        if isinstance(node, ast.ImportFrom) and node.module == "keras_meta"
        for alias in node.names
    }
    assert {module.split(".")[0] for module in api_modules()} - {"zoo"} <= imported

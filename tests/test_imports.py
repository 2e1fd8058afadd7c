"""Who imports whom: the directions of DESIGN.md, section 3, read from the source."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import keras_popdescent

ROOT = Path(keras_popdescent.__file__).parent
# Each layer imports from those before it; the parts of one layer know nothing of each other.
LAYERS = (
    {"errors"},
    {"_imports", "arguments"},
    {"operators"},
    {"strategies"},
    {"history", "hyperparameters", "data", "checkpoint"},
    {"population"},
    {"executors"},
    {"callbacks", "plots", "testing"},
    {"tuners"},
)
# third-party module -> the files that may import it; what is not listed may be imported nowhere.
ALLOWED = {
    "numpy": ("",),
    "keras": ("hyperparameters/", "data/", "population/", "executors/", "callbacks/", "tuners/",
              "testing/"),
    "keras_tuner": ("tuners/", "hyperparameters/space.py"),
    "tensorflow": ("executors/stepping/tensorflow.py", "population/live_model.py",
                   "population/variables.py", "hyperparameters/numbers.py",
                   "population/determinism.py"),
    "jax": ("executors/stepping/jax.py", "executors/vectorized.py", "executors/engine.py",
            "executors/convolutions.py", "executors/stacks.py"),
    "torch": ("executors/stepping/torch.py",),
    "ray": ("executors/ray.py",),
    "rich": ("callbacks/progress/",),
    "IPython": ("callbacks/progress/notebook.py",),
    "matplotlib": ("plots/_figure.py",),
}  # fmt: skip
# module -> the files that may import it at their top, because they are themselves imported where
# they are used; elsewhere it is imported within functions.
AT_TOP_OF = {
    "tensorflow": {"executors/stepping/tensorflow.py"},
    "jax": {
        "executors/stepping/jax.py",
        "executors/vectorized.py",
        "executors/convolutions.py",
        "executors/engine.py",
        "executors/stacks.py",
    },
    "torch": {"executors/stepping/torch.py"},
    "ray": {"executors/ray.py"},
    "matplotlib": {"plots/_figure.py"},
    "IPython": set(),
}


class Import(NamedTuple):
    file: str
    module: str
    line: int
    at_top: bool
    for_types: bool


def imports_of(path: Path) -> list[Import]:
    found: list[Import] = []

    def walk(node: ast.AST, at_top: bool, for_types: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            modules = []
            if isinstance(child, ast.Import):
                modules = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                modules = ["." * child.level + (child.module or "")]
            for module in modules:
                file = path.relative_to(ROOT).as_posix()
                found.append(Import(file, module, child.lineno, at_top, for_types))
            walk(child, at_top and not inside, for_types or types)

    walk(ast.parse(path.read_text(encoding="utf-8")), True, False)
    return found


FILES = sorted(path for path in ROOT.rglob("*.py"))
IMPORTS = [found for path in FILES for found in imports_of(path)]
OURS = [found for found in IMPORTS if found.module.split(".")[0] == "keras_popdescent"]
THEIRS = [
    found
    for found in IMPORTS
    if found.module.split(".")[0] not in {"keras_popdescent", *sys.stdlib_module_names}
    and not found.for_types
]


def part(file: str) -> str:
    """Return the top-level module that a file belongs to."""
    return file.split("/")[0].removesuffix(".py")


def rank(name: str) -> int:
    return next(rank for rank, layer in enumerate(LAYERS) if name in layer)


def test_the_source_was_read():
    assert len(FILES) > 50
    assert any(found.module == "keras_popdescent.operators.fitness" for found in OURS)
    assert {found.module.split(".")[0] for found in THEIRS} >= {"numpy", "keras", "keras_tuner"}
    lazily = [found for found in THEIRS if found.file == "population/live_model.py"]
    assert {found.at_top for found in lazily if found.module == "tensorflow"} == {False}


def test_every_part_has_a_layer():
    parts = {part(path.relative_to(ROOT).as_posix()) for path in FILES} - {"__init__"}
    assert parts <= set.union(*LAYERS), "Say in LAYERS where it stands."


def test_imports_are_absolute():
    assert [found for found in IMPORTS if found.module.startswith(".")] == []


def test_nothing_imports_the_package_as_a_whole():
    assert [found for found in OURS if found.module == "keras_popdescent"] == []


def test_layers_import_downwards():
    upwards = [
        found
        for found in OURS
        if part(found.file) not in {"__init__", found.module.split(".")[1]}
        and rank(found.module.split(".")[1]) >= rank(part(found.file))
    ]
    assert upwards == []


def test_nothing_needs_the_tests():
    users = {part(found.file) for found in OURS if found.module.split(".")[1] == "testing"}
    assert users <= {"testing"}


def test_third_party_modules_are_imported_where_they_belong():
    strangers = [
        found
        for found in THEIRS
        if not found.file.startswith(ALLOWED.get(found.module.split(".")[0], ()))
    ]
    assert strangers == []


@pytest.mark.parametrize("module", AT_TOP_OF)
def test_optional_modules_are_imported_where_they_are_used(module):
    at_top = {f.file for f in THEIRS if f.module.split(".")[0] == module and f.at_top}
    assert at_top <= AT_TOP_OF[module]


WITHOUT = """
import sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in modules:
            raise ModuleNotFoundError(f"{name} is not to be imported.", name=name)

sys.meta_path.insert(0, Finder)
"""


def run_without(modules: list[str], statement: str, backend: str, folder: Path) -> None:
    """Run a statement in a new process in which some modules cannot be imported."""
    subprocess.run(
        [sys.executable, "-c", f"modules = {modules!r}\n{WITHOUT}\n{statement}"],
        check=True,
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": backend},
        timeout=120,
    )


OPTIONAL = [
    "keras_tuner", "matplotlib", "pandas", "tensorboard", "IPython", "ray", "pytest", "hypothesis",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "other"), [("tensorflow", "jax"), ("jax", "tensorflow")])
def test_the_package_is_imported_without_any_extra(backend, other, tmp_path):
    pytest.importorskip(backend)
    statement = "import keras_popdescent, keras_popdescent.plots, keras_popdescent.testing"
    run_without([*OPTIONAL, other], statement, backend, tmp_path)


@pytest.mark.slow
def test_the_tuner_is_imported_without_tensorboard(tmp_path):
    statement = (
        "import keras_popdescent; assert 'keras_tuner' not in sys.modules; "
        "keras_popdescent.PopDescentTuner; assert 'keras_tuner' in sys.modules"
    )
    run_without(["tensorboard", "matplotlib", "pandas"], statement, "tensorflow", tmp_path)


def needed_by(*distributions: str) -> set[str]:
    """Return distributions with all that they say they need, without extras."""
    found: set[str] = set()
    todo = list(distributions)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        found.add(name)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform, say
            continue
        requirements = map(Requirement, lines)
        todo += [r.name for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.slow
def test_the_tuner_needs_nothing_that_is_not_declared(tmp_path):
    """KerasTuner imports what it does not declare; TensorFlow happens to bring it."""
    pytest.importorskip("jax")
    declared = needed_by("keras-popdescent", "jax")
    others = [
        module
        for module, owners in metadata.packages_distributions().items()
        if not declared & set(map(canonicalize_name, owners))
    ]
    assert "tensorflow" in others or importlib.util.find_spec("tensorflow") is None
    run_without(
        others, "import keras_popdescent; keras_popdescent.PopDescentTuner", "jax", tmp_path
    )


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="PopAscent"):
        keras_popdescent.PopAscent  # noqa: B018


def test_a_star_imports_what_is_public():
    names: dict[str, object] = {}
    exec("from keras_popdescent import *", names)
    # What completion offers has all of it, also what is imported late.
    assert set(keras_popdescent.__all__) <= set(dir(keras_popdescent))
    source = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    named = {
        alias.asname
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert set(names) - {"__builtins__"} == named
    assert "PopDescentTuner" in named

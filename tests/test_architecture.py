"""The direction of imports: the mathematics and the networks know nothing of each other, nor of what stands above."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {
    "sde_lib": {"jax", "flax", "jaxtyping", "optax", "numpy", "diffrax", "sklearn"},
    "models": {"jax", "flax", "jaxtyping"},
}
PACKAGES = {"sde_lib", "models", "configs", "data_lib", "eval_lib", "io_lib"}
OURS = PACKAGES | {
    "run_card",
    "run_classes",
    "run_data",
    "run_evaluation",
    "run_features",
    "run_import",
    "run_inspect",
    "run_lib",
    "run_likelihood",
    "run_parts",
    "run_plan",
    "run_reproduce",
    "run_sampling",
    "run_training",
    "main",
}
ALLOWED = {
    "sde_lib": set(),
    "models": set(),
    "data_lib": set(),
    "eval_lib": {"io_lib.torch_file"},
    "io_lib": {"configs.names", "configs.saved"},
    "configs": {"sde_lib", "models", "data_lib", "eval_lib"},
}


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package):
    for file in (ROOT / package).rglob("*.py"):
        for name in imports(file):
            top = name.split(".")[0]
            if top in OURS - {package}:
                assert top in ALLOWED[package] or name in ALLOWED[package], f"{file.name} imports {name}"
            elif package in LAYERS and top not in sys.stdlib_module_names | {package}:
                assert top in LAYERS[package], f"{file.name} imports {name}"


def test_no_tensorflow_and_no_pytorch():
    """Not even by way of a dependency: everything is imported in a process of its own."""
    code = "import sys, run_lib, run_import, configs.cifar10; sys.exit(str({'tensorflow', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == "set()", done.stderr

"""The direction of imports, by packages: the mathematics and the networks know nothing of each other, nor of what
stands above; there is no circle; the core of sde_lib can be read in one sitting."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What a room may import of the others, from the ground floor to the roof.
ROOMS = {
    "_score_sde_jax_guard": set(),
    "config_lib": set(),
    "sde_lib": set(),
    "models": set(),
    "published_lib": set(),
    "io_lib": {"config_lib"},
    "data_lib": {"io_lib"},  # forms write and draw samples
    "eval_lib": {"published_lib", "io_lib"},  # features of sounds and their pictures have the same levels
    "configs": {"config_lib", "sde_lib", "models", "data_lib", "eval_lib"},
    "run_modes": {
        *("_score_sde_jax_guard", "config_lib", "sde_lib", "models", "data_lib", "published_lib", "io_lib", "eval_lib"),
    },
    "run_lib": {"_score_sde_jax_guard", "run_modes"},
    "main": {"run_modes"},
}
# The same within sde_lib: its sub-packages, with the modules at its top as one.
INNER = {
    *(
        "numbers",
        "guidance",
        "posterior",
        "particles",
        "processes",
        "solvers",
        "training",
        "likelihood",
        "check",
        "discrete",
    ),
}
OUTSIDE = {
    "sde_lib": {"jax", "flax", "jaxtyping", "optax", "numpy", "diffrax", "sklearn"},
    "models": {"jax", "flax", "jaxtyping"},
}


def imports(file):
    """Every imported module, also within functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def files_of(room):
    return sorted((ROOT / room).rglob("*.py")) if (ROOT / room).is_dir() else [ROOT / f"{room}.py"]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    for file in files_of(room):
        for name in imports(file):
            top = name.split(".")[0]
            if top in ROOMS.keys() - {room}:
                assert top in ROOMS[room], f"{file.relative_to(ROOT)} imports {name}"
            elif room in OUTSIDE and top not in sys.stdlib_module_names | {room}:
                assert top in OUTSIDE[room], f"{file.relative_to(ROOT)} imports {name}"


def test_there_is_no_circle_of_rooms_and_the_depth_is_small():
    depth = {}
    for room, below in ROOMS.items():  # in order: each after all it imports
        assert below <= depth.keys(), f"{room} comes before {below - depth.keys()}"
        depth[room] = 1 + max((depth[b] for b in below), default=0)
    assert max(depth.values()) <= 5


def test_every_room_is_listed():
    found = {p.name for p in ROOT.iterdir() if (p / "__init__.py").is_file()} | {p.stem for p in ROOT.glob("*.py")}
    assert found - {"tests", "benchmarks", "setup"} == set(ROOMS)


def test_no_circle_of_modules_within_sde_lib():
    """Not even through `import` in a function; and sub-packages do not use each other in a circle."""
    modules = {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files_of("sde_lib")
    }
    graph = {name: {i for i in imports(file) if i in modules} - {name} for name, file in modules.items()}
    aggregates = {"sde_lib", *(f"sde_lib.{inner}" for inner in INNER)}
    assert not [name for name, used in graph.items() if name not in aggregates and "sde_lib" in used]
    between = {inner: set() for inner in INNER}
    for name, used in graph.items():
        inner = name.split(".")[1] if name.count(".") else ""
        if inner in INNER:
            between[inner] |= {u.split(".")[1] for u in used if u.count(".")} & INNER - {inner}
    order = []
    while between:
        free = sorted(inner for inner, used in between.items() if not used - set(order))
        assert free, f"a circle among {sorted(between)}"
        order += free
        between = {inner: used for inner, used in between.items() if inner not in free}


def test_the_core_can_be_read_in_one_sitting():
    core = [file for file in (ROOT / "sde_lib").glob("*.py") if file.name != "__init__.py"]
    assert sum(len(file.read_text().splitlines()) for file in core) <= 1500


def test_no_tensorflow_and_no_pytorch():
    """Not even through a dependency: everything is imported in a process of its own."""
    code = "import sys, run_lib, configs.cifar10; sys.exit(str({'tensorflow', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == "set()", done.stderr

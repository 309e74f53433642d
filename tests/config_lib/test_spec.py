"""Config → object: what a section holds, what is refused, and that a name in a file runs nothing it should not."""

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import optax
import pytest
from flax import struct
from ml_collections import ConfigDict

from config_lib import names
from config_lib.command_line import apply_overrides, load_config
from config_lib.spec import ConfigError, bind, build, diff, from_json, nearest_key_message, spec, to_json


class Noise(struct.PyTreeNode):
    beta_min: float = 0.1
    beta_max: float = 20.0


@dataclasses.dataclass(frozen=True)
class Run:
    steps: int
    noise: Noise = Noise(beta_min=0.2)  # noqa: RUF009
    lr: float = 1  # an int that stands for a float
    ema: bool = True
    levels: tuple[int, ...] = (1, 2)
    clip: float | None = None
    label: "str | None" = None
    either: int | float | None = None
    mode: Literal["a", "b"] = "a"
    weight: Callable = max
    dtype: Any = jnp.float32
    made: tuple[float, ...] = dataclasses.field(default_factory=lambda: (0.5,))

    def bound(self) -> int:
        return self.steps

    @classmethod
    def short(cls, ema: bool = False) -> "Run":
        return cls(steps=1, ema=ema)


class Net(nn.Module):
    width: int = 8
    act: Callable = nn.swish
    use_bias: bool = True


def scaled(x, factor: float = 2.0, **others):
    if factor < 0:
        raise ValueError("factor must not be negative")
    return x * factor


def section(**kwargs) -> ConfigDict:
    return ConfigDict({"run": spec(Run, steps=3, **kwargs)})


def flagged(config, *flags):
    return build(apply_overrides(config, flags))["run"]


def test_section_holds_every_default_that_json_can():
    held = spec(Run, steps=3)
    assert set(held) == {"call", *(f.name for f in dataclasses.fields(Run))} - {"weight", "dtype"}
    assert held.call == "test_spec:Run"
    assert held.noise.call == "test_spec:Noise" and held.noise.beta_min == 0.2 and held.noise.beta_max == 20.0
    assert type(held.lr) is float and held.made == (0.5,) and held.clip is None
    assert (held.get_type("clip"), held.get_type("label"), held.get_type("either")) == (float, str, object)
    assert set(spec(Net)) == {"call", "width", "use_bias"}
    assert "steps" not in spec(Run)


def test_build_gives_what_the_call_gives():
    assert build(spec(Run, steps=3, levels=[4, 5], lr=2)) == Run(steps=3, levels=(4, 5), lr=2.0)
    assert build(spec(Run, steps=3, noise=Noise(beta_max=7.0))) == Run(steps=3, noise=Noise(beta_max=7.0))
    assert build(spec(Net, width=3)) == Net(width=3)
    assert build(spec(scaled, x=3.0, factor=3)) == 9.0
    assert build(spec(Run.short, ema=True)) == Run.short(ema=True)
    tree = ConfigDict({"nets": (spec(Net), spec(Net, width=2)), "plain": {"seed": 1}})
    assert build(tree) == {"nets": (Net(), Net(width=2)), "plain": {"seed": 1}}


def test_bind_leaves_arguments_open():
    made = build(bind(scaled, factor=3.0))
    assert isinstance(made, functools.partial) and made(2.0) == 6.0
    update = build(spec(optax.adam, learning_rate=0.1)).update
    assert callable(update)


def test_flags_reach_every_depth_and_none():
    flags = ["--config.run.noise.beta_max=15", "--config.run.clip=1", "--noconfig.run.ema", "--config.run.either=3"]
    made = flagged(section(), *flags, "--config.run.levels=(7,8,9)", "--config.run.label", "x")
    expected = Run(steps=3, noise=Noise(beta_min=0.2, beta_max=15.0), clip=1.0, ema=False)
    assert made == dataclasses.replace(expected, either=3, levels=(7, 8, 9), label="x")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"stepz": 1}, r"^Run has no parameter 'stepz'; nearest: steps$"),
        ({"lr": True}, r"^Run.lr expects float, got bool True$"),
        ({"steps": "3"}, r"^Run.steps expects int, got str '3'$"),
        ({"steps": 1.0}, r"^Run.steps expects int, got float 1.0$"),
        ({"ema": 1}, r"^Run.ema expects bool, got int 1$"),
        ({"levels": (1, "a")}, r"^Run.levels\[1\] expects int, got str 'a'$"),
        ({"levels": 3}, r"^Run.levels expects tuple, got int 3$"),
        ({"lr": None}, r"^Run.lr expects float, got NoneType None$"),
        ({"clip": "x"}, r"^Run.clip expects float or None, got str 'x'$"),
        ({"mode": "c"}, r"^Run.mode expects one of 'a', 'b', got 'c'; valid: a, b$"),
        ({"lr": float("nan")}, r"^Run.lr: a config holds finite numbers, got nan$"),
        ({"weight": min}, r"^Run.weight: a config holds .*, got builtin_function_or_method; wrap it in bind"),
        ({"dtype": object()}, r"^Run.dtype: a config holds .*, got object"),
    ],
)
def test_spec_refuses(kwargs, message):
    for error in (TypeError, ValueError):
        with pytest.raises(error, match=message):
            spec(Run, **kwargs)


def test_spec_refuses_targets_without_a_name_of_their_own():
    with pytest.raises(ConfigError, match="top level"):
        spec(lambda: 0)
    with pytest.raises(ConfigError, match="expected a class or a function, got method"):
        spec(Run(steps=1).bound)
    with pytest.raises(ConfigError, match="got partial"):
        spec(functools.partial(scaled, 1))


def test_numeric_default_tells_where_the_annotation_does_not():
    assert spec(optax.adam, learning_rate=1e-3, b1=0.5).b1 == 0.5
    with pytest.raises(ConfigError, match=r"adam\.b1 expects"):
        spec(optax.adam, learning_rate=1e-3, b1="0.5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run.noise.beta_maks": 1.0}, r"^config.run.noise: Noise has no parameter 'beta_maks'; nearest: beta_max$"),
        ({"run.noise.beta_max": "x"}, r"^config.run.noise.beta_max expects float, got str 'x'$"),
        ({"run.steps": True}, r"^config.run.steps expects int, got bool True$"),
        ({"run.bind": "a:b"}, r"^config.run holds both 'call' and 'bind'"),
        ({"run.call": "nocolon"}, r"^config.run: expected 'module:name', got 'nocolon'$"),
        ({"run": spec(scaled, x=1.0, factor=-1)}, r"^config.run: scaled: factor must not be negative$"),
        ({"run": {"call": "test_spec:Run"}}, r"^config.run: Run needs a value for steps$"),
        ({"run": (spec(Run),)}, r"^config.run\[0\]: Run needs a value for steps$"),
    ],
)
def test_build_says_where(change, message):
    config = section()
    for key, value in change.items():
        *path, last = key.split(".")
        holder = functools.reduce(lambda c, k: c[k], path, config)
        with holder.ignore_type():
            holder[last] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=message):
        build(config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:system", "outside the installed packages"),
        ("subprocess:run", "outside the installed packages"),
        ("optaxx:adam", "outside the installed packages"),
        ("flax.io:rmtree", "outside the installed packages"),
        ("builtins:eval", "outside the installed packages"),
        ("config_lib.command_line:load_config", "outside the installed packages"),
        ("configs.spec:build", "outside the installed packages"),
        ("run_lib:train", "outside the installed packages"),
        ("configs.base:bind.__globals__", "private names"),
        ("data_lib.batches:np", "no class or function"),
        ("optax:jnp.save", "jnp is not a class"),
        ("data_lib.batches:np.save", "np is not a class"),
        ("data_lib.batches:Iterator", "no class or function"),
        ("data_lib.arrays:Path.unlink", "Path is not a class"),
        ("optax:contrib", "no class or function"),
        ("optax:__loader__.load_module", "private names"),
        ("optax._src.alias:adam", "private names"),
        ("sde_lib:VP.__subclasses__", "private names"),
        ("sde_lib.solvers.base:KERNEL", "no class or function"),
        ("optax:nothing", "no class or function"),
        ("optax.nothing:adam", "cannot import"),
        ("optax: adam", "private names"),
        (3, "expected 'module:name'"),
    ],
)
def test_names_that_must_not_resolve(name, message):
    with pytest.raises(ConfigError, match=message):
        build(ConfigDict({"x": {"call": name}}))


def test_names_of_installed_packages_resolve_in_a_new_process(monkeypatch):
    held = from_json(
        to_json(ConfigDict({"opt": spec(optax.sgd, learning_rate=0.5), "net": spec(nn.Dense, features=2)}))
    )
    own = spec(Run, steps=1)
    assert (held.opt.call, held.net.call) == ("optax:sgd", "flax.linen:Dense")
    monkeypatch.setattr(names, "_seen", {})
    assert build(held)["net"] == nn.Dense(2)
    with pytest.raises(ConfigError, match=r"config.sde is `.*test_spec:Run`, defined outside .* pass --config=FILE"):
        build(ConfigDict({"sde": own}))


def test_json_round_trip_is_exact():
    config = section(levels=[3])
    config.more = ConfigDict({"one": 1, "real": 1.0, "no": None, "yes": True, "text": "é", "nested": ((1, 2.0), [])})
    back = from_json(to_json(config))
    assert to_json(back) == to_json(config) and diff(back, config) == []
    assert back.more.nested == ((1, 2.0), ()) and type(back.more.real) is float and type(back.more.one) is int
    assert build(back)["run"] == build(config)["run"] and back.run.clip is None
    assert to_json(config).index('"more"') < to_json(config).index('"run"')


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "as JSON"), ("[1]", "JSON object, got list"), ('{"a": NaN}', "config.a: .* finite"), ("x = 1", "as JSON")],
)
def test_from_json_refuses(text, message):
    with pytest.raises(ConfigError, match=message):
        from_json(text)


@pytest.mark.parametrize("value", [float("inf"), jnp.float32, {1: 2}])
def test_to_json_refuses(value):
    config = ConfigDict({"a": 1})
    config._fields["a"] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=r"^config\.a: "):
        to_json(config)


def test_diff_and_nearest_key():
    a, b = section(), section(lr=2.0)
    b.run.noise.beta_max, b.seed = 15.0, 1
    assert diff(a, b) == [
        "config.run.lr: 1.0 -> 2.0",
        "config.run.noise.beta_max: 20.0 -> 15.0",
        "config.seed: (absent) -> 1",
    ]
    assert diff(ConfigDict({"a": 1}), ConfigDict({"a": 1.0})) == ["config.a: 1 -> 1.0"]
    wrong, right = "unknown config key config.run.noise.beta_mx", "config.run.noise.beta_max"
    assert nearest_key_message(a, "config.run.noise.beta_mx") == f"{wrong}; nearest: {right}"
    assert nearest_key_message(a, "beta_max") == f"unknown config key config.beta_max; nearest: {right}"
    assert nearest_key_message(a, "zzz") == "unknown config key config.zzz"


CONFIG = """
import dataclasses
from ml_collections import ConfigDict
from config_lib.spec import spec

@dataclasses.dataclass(frozen=True)
class MySDE:
    beta_max: float = 20.0
    clip: "float | None" = None

def get_config(size="small"):
    if size == "broken":
        return spec(MySDE, beta_mx=1.0)
    return ConfigDict({"size": size, "sde": spec(MySDE)})
"""

MAIN = '''"""Trains a toy."""
import sys
from absl import flags
from config_lib.command_line import define_config_flag, run
from config_lib.spec import build, to_json

define_config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "where the run lives")

def main(config):
    print(build(config), WORKDIR.value, "jax" in sys.modules) if config else print("no config")

if __name__ == "__main__":
    run(main)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "my_config.py").write_text(CONFIG)
    (folder / "empty.py").write_text("")
    (folder / "main.py").write_text(MAIN)
    return folder


def call(folder, *args):
    root = str(names.Path(names.__file__).parents[1])
    command = [sys.executable, "main.py", *args]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": root}, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_class_in_a_config_file_builds(folder):
    config = load_config(f"{folder}/my_config.py:large")
    assert config.size == "large" and config.sde.call == "my_config:MySDE"
    assert build(config.sde).beta_max == 20.0


def test_command_line_builds_with_overrides(folder):
    flags = ["--config.sde.beta_max", "15", "--workdir=w", "--config.sde.clip=1"]
    code, out, err = call(folder, "--config=my_config.py", *flags)
    assert (code, err) == (0, "")
    assert "MySDE(beta_max=15.0, clip=1.0)" in out and out.endswith("w False\n")
    assert call(folder)[1] == "no config\n"


def test_help_lists_our_flags(folder):
    _, out, _ = call(folder, "--help")
    assert "Trains a toy." in out and "--config" in out and "--workdir" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config=nope.py"], "--config=nope.py: there is no file nope.py"),
        (
            ["--config=my_config.py", "--config.sde.beta_mx=1"],
            "config key config.sde.beta_mx; nearest: config.sde.beta_max",
        ),
        (["--config=my_config.py", "--config.sde.beta_max=abc"], "config.sde.beta_max=abc: expected a number"),
        (["--config=my_config.py", "--config.sde=3"], "config.sde=3: Failed to parse '3'"),
        (["--config=my_config.py", "--config.sde.call=os:system"], "config.sde is `os:system`, defined outside"),
        (["--config=my_config.py:broken"], "my_config.py:13: ConfigError: MySDE has no parameter 'beta_mx'; nearest"),
        (["--config=my_config.py", "--workdri=x"], "unknown flag --workdri; nearest: workdir"),
        (["--config=my_config.py", "left"], "unexpected argument 'left'"),
        (["--config.sde.beta_max=1"], "--config.sde.beta_max=1 changes a config, but there is none"),
        (["--config=empty.py"], "has no attribute 'get_config'"),
        (["--config"], "Missing value for flag --config"),
    ],
)
def test_command_line_errors_are_one_line(folder, args, message):
    code, out, err = call(folder, *args)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("main.py: ") and message in err


def test_arrays_are_held_as_nested_tuples():
    """Tables and fitted priors are parameters like others: their numbers stand in the config, and survive JSON."""
    section = spec(Run, steps=1, dtype=jnp.asarray([[1.0, 2.0], [3.0, 4.0]]))
    assert section.dtype == ((1.0, 2.0), (3.0, 4.0))
    assert build(from_json(to_json(section))).dtype == ((1.0, 2.0), (3.0, 4.0))

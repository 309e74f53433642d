"""What was saved comes back bit for bit, whatever happens to the buffers, the devices or the process."""

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import struct
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from io_lib import checkpoint
from io_lib.checkpoint import Checkpoints, DamagedError

ROOT = Path(__file__).parents[2]


class State(struct.PyTreeNode):
    step: Any
    params: Any
    opt_state: Any
    key: Any
    count: Any = 7


def make_state(step: int) -> State:
    w = jnp.arange(32, dtype=jnp.float32).reshape(8, 4) / 7 + step
    params = {"dense": {"kernel": w, "bias": jnp.arange(4, dtype=jnp.bfloat16) / 3}}
    return State(jnp.int32(step), params, optax.adam(1e-3).init(params), jax.random.split(jax.random.key(step), 2))


def mesh_of(devices: int) -> jax.sharding.Mesh:
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def abstract(state: State, sharding=None) -> State:
    def leaf(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) if hasattr(x, "shape") else x

    return jax.tree.map(leaf, state)


def numbers(x) -> np.ndarray:
    is_key = jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert jnp.asarray(x).dtype == jnp.asarray(y).dtype
        np.testing.assert_array_equal(numbers(x), numbers(y))


def test_round_trip_of_keys_bfloat16_and_optax_states(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest_step() is None and not (tmp_path / "c").exists()
        checkpoints.save(3, make_state(3))
        assert_same(checkpoints.restore(abstract(make_state(0))), make_state(3))
    with Checkpoints(tmp_path / "c") as fresh:
        restored = fresh.restore(abstract(make_state(0)), step=3)
        assert_same(restored, make_state(3))
        assert type(restored.count) is int and restored.params["dense"]["bias"].dtype == jnp.bfloat16


def test_retention_and_empty_trash(tmp_path):
    with Checkpoints(tmp_path, keep_newest=2, keep_every=4) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(step, {"x": jnp.full(3, step)})
        checkpoints.wait()
        assert checkpoints.steps() == [4, 6, 7] and checkpoints.latest_step() == 7
        assert list((tmp_path / ".trash").iterdir()) == []
        restored = checkpoints.restore({"x": jax.ShapeDtypeStruct((3,), jnp.int64)}, step=4)
        assert restored["x"].tolist() == [4, 4, 4]
        with pytest.raises(ValueError, match=r"step 7 is not after the newest checkpoint, 7, in "):
            checkpoints.save(7, {"x": jnp.ones(3)})


def test_a_killed_runs_remains_are_removed_at_the_first_save_only(tmp_path):
    (tmp_path / "9.orbax-checkpoint-tmp" / "d").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:  # a reader: what it sees may be another process's save under way
        assert checkpoints.steps() == [] and (tmp_path / "9.orbax-checkpoint-tmp").exists()
        checkpoints.save(1, {"x": jnp.ones(2)})
        checkpoints.wait()
        assert not (tmp_path / "9.orbax-checkpoint-tmp").exists() and checkpoints.steps() == [1]


def test_buffers_may_be_donated_right_after_save(tmp_path):
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    x = jnp.arange(1_000_000, dtype=jnp.float32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": x})
        overwrite(x).block_until_ready()
        restored = checkpoints.restore({"x": jax.ShapeDtypeStruct((1_000_000,), jnp.float32)})
    np.testing.assert_array_equal(restored["x"], np.arange(1_000_000, dtype=np.float32))


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_restores_on_another_number_of_devices(tmp_path, devices):
    x = jnp.arange(16.0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jax.device_put(x, NamedSharding(mesh_of(4), PartitionSpec("data")))})
        sharding = NamedSharding(mesh_of(devices), PartitionSpec("data"))
        restored = checkpoints.restore({"x": jax.ShapeDtypeStruct((16,), x.dtype, sharding=sharding)})["x"]
    assert restored.sharding == sharding
    np.testing.assert_array_equal(restored, x)


def spread(state: State, devices: int, split: bool) -> State:
    """The abstract state on so many devices: copied, or the kernels and their moments split along their first axis."""
    split_over, copied = (NamedSharding(mesh_of(devices), PartitionSpec(*axes)) for axes in (["data"], []))

    def leaf(x):
        if not hasattr(x, "shape"):
            return x
        sharding = split_over if split and x.shape == (8, 4) else copied
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(leaf, state)


@pytest.mark.parametrize("split", [False, True], ids=["replicated", "sharded"])
def test_from_eight_devices_to_one_to_two(tmp_path, split):
    """Saved on each and restored on the next, to the last bit, split over the devices or copied to them."""
    expected = make_state(3)
    state = jax.tree.map(
        lambda x, a: jax.device_put(x, a.sharding) if hasattr(x, "shape") else x, expected, spread(expected, 8, split)
    )
    for step, devices in enumerate([1, 2, 8], start=1):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(step, state)
            state = checkpoints.restore(spread(expected, devices, split))
        assert_same(state, expected)
        kernel = state.params["dense"]["kernel"]
        assert kernel.sharding == spread(expected, devices, split).params["dense"]["kernel"].sharding
        assert len(kernel.sharding.device_set) == devices
        assert kernel.addressable_shards[0].data.shape == ((8 // devices, 4) if split else (8, 4))


def test_parameters_alone(tmp_path):
    """The rest stays abstract, and is not even read: its bytes may be gone."""
    abstract_state = spread(make_state(0), 2, True)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, make_state(3))
        found = checkpoints.restore(abstract_state, only=("params", "step"))
        assert_same((found.params, found.step), (make_state(3).params, make_state(3).step))
        assert found.params["dense"]["kernel"].sharding == abstract_state.params["dense"]["kernel"].sharding
        assert found.opt_state == abstract_state.opt_state and found.count == abstract_state.count
        wrong = change("kernel", jax.ShapeDtypeStruct((8, 5), jnp.float32))
        with pytest.raises(ValueError, match=r"leaf params\.dense\.kernel is float32\(8, 4\)"):
            checkpoints.restore(wrong, only=("params",))
        assert checkpoints.restore(wrong, only=("step",)).step == 3  # what is not read is not compared


def test_card_leaves_and_verification(tmp_path):
    card = {"step": 3, "data": {"call": "a:b", "test": 0.1}, "license": "CC BY 4.0", "levels": [1, None, True]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, make_state(3), card)
        checkpoints.save(4, make_state(4))
        checkpoints.wait()
        assert checkpoints.card(3) == card and checkpoints.card(4) == {}
        leaves = checkpoints.leaves(3)
        assert leaves["params.dense.kernel"] == ("float32", (8, 4)) and leaves["key"] == ("uint32", (2, 2))
        assert len(leaves) == len(jax.tree.leaves(make_state(3)))
        checkpoints.verify(3)
        x = jnp.zeros(1000).at[7].set(1)
        checkpoints.save(5, {"x": x})
        checkpoints.wait()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(checkpoint, "_checksums", lambda state: np.asarray([1], np.uint32))
            with pytest.raises(DamagedError, match="5: a leaf differs from what was written"):
                checkpoints.verify(5)


def change(path: str, value) -> State:
    """The abstract state with one entry of the dense layer changed, added or (None) removed."""
    state = abstract(make_state(0))
    dense = {**state.params["dense"], path: value}
    return state.replace(params={"dense": {k: v for k, v in dense.items() if v is not None}})


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (("kernel", (8, 5), jnp.float32), r"leaf params\.dense\.kernel is float32\(8, 4\), expected float32\(8, 5\)$"),
        (
            ("kernel", (8, 4), jnp.bfloat16),
            r"leaf params\.dense\.kernel is float32\(8, 4\), expected bfloat16\(8, 4\)$",
        ),
        (("scale", (4,), jnp.float32), r"no leaf params\.dense\.scale, expected float32\(4,\)$"),
        (("bias", None, None), r"unexpected leaf params\.dense\.bias, bfloat16\(4,\)$"),
    ],
)
def test_mismatch_names_the_leaf(tmp_path, wanted, message):
    name, shape, dtype = wanted
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1))
        with pytest.raises(ValueError, match=message):
            checkpoints.restore(change(name, None if shape is None else jax.ShapeDtypeStruct(shape, dtype)))


def test_missing_checkpoint_names_the_directory(tmp_path):
    with Checkpoints(tmp_path / "none") as checkpoints:
        with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*none$"):
            checkpoints.restore({})
        checkpoints.save(2, {"x": jnp.ones(2)})
        with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 1 in .*none; it holds steps \[2\]"):
            checkpoints.restore({}, step=1)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="expected keep_newest, keep_every >= 1, got 0 and None"):
        Checkpoints("x", keep_newest=0)


SAVER = """
import sys, numpy as np, jax.numpy as jnp
from io_lib.checkpoint import Checkpoints
with Checkpoints(sys.argv[1], keep_newest=2) as checkpoints:
    step = checkpoints.latest_step() or 0
    while True:
        step += 1
        checkpoints.save(step, {"a": jnp.full((300_000,), step, jnp.float32), "b": {"c": jnp.int32(step)}})
        print(step, flush=True)
"""


def test_after_sigkill_the_newest_listed_step_is_whole(tmp_path):
    target = {"a": jax.ShapeDtypeStruct((300_000,), jnp.float32), "b": {"c": jax.ShapeDtypeStruct((), jnp.int32)}}
    root = str(Path(__file__).parents[2])
    for delay in (0.0, 0.013, 0.031):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": root, "XLA_FLAGS": ""},
        )
        for _ in range(4):
            assert process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with Checkpoints(tmp_path) as checkpoints:
            step = checkpoints.latest_step()
            restored = checkpoints.restore(target)
        assert int(restored["b"]["c"]) == step and np.all(np.asarray(restored["a"]) == step)


def damage(step: Path, generator: np.random.Generator) -> str:
    """Cuts a file of the checkpoint, empties it, turns a bit of it or removes it."""
    file = generator.choice(sorted(p for p in step.rglob("*") if p.is_file() and p.stat().st_size))
    content, how = bytearray(file.read_bytes()), generator.choice(["cut", "empty", "turn", "turn", "remove"])
    place = int(generator.integers(len(content)))
    content[place] ^= 1 << int(generator.integers(8))
    if how == "remove":
        file.unlink()
    else:
        file.write_bytes({"cut": content[:place], "empty": b"", "turn": content}[how])
    return f"{file.relative_to(step)}: {how} at {place}"


@pytest.mark.parametrize("rounds", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_set_aside(tmp_path, rounds):
    """Whatever happened to its bytes: the state of the newest as it was written, or, with a warning, the one before."""
    whole = tmp_path / "whole"
    with Checkpoints(whole) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step))
    generator, told = np.random.default_rng(0), 0
    for k in range(rounds):
        copy = tmp_path / str(k)
        shutil.copytree(whole, copy)
        what = damage(copy / "2", generator)
        with Checkpoints(copy) as checkpoints, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            found = checkpoints.restore(abstract(make_state(0)), set_aside=True)
            assert_same(found, make_state(int(found.step)))
            aside = [str(w.message) for w in warned if "the previous checkpoint is used" in str(w.message)]
            assert bool(aside) == (int(found.step) == 1) == (copy / ".damaged" / "2").is_dir(), what
            checkpoints.save(3, make_state(3))  # it goes on
        told += bool(aside)
        shutil.rmtree(copy)
    assert told > rounds / 20


def test_no_whole_checkpoint_is_left(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1))
    for file in (tmp_path / "1").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(DamagedError, match="1 cannot be read"):
            checkpoints.restore(abstract(make_state(0)), step=1)
        with (
            pytest.warns(UserWarning, match=r"it is now .*\.damaged/1"),
            pytest.raises(FileNotFoundError, match=r"no checkpoint in .*, but damaged ones: 1"),
        ):
            checkpoints.restore(abstract(make_state(0)), set_aside=True)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_reader_moves_nothing(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step))
    for file in (tmp_path / "2").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    before = everything_in(tmp_path)
    with (
        Checkpoints(tmp_path) as reader,
        pytest.warns(UserWarning, match="2 cannot be read .* the previous checkpoint"),
    ):
        assert_same(reader.restore(abstract(make_state(0))), make_state(1))
    assert everything_in(tmp_path) == before and not (tmp_path / ".damaged").exists()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("PERMISSION_DENIED: Error opening file: a/d/0 [OS error 13: EACCES Permission denied]", PermissionError),
        ("UNAVAILABLE: reading a/d/0 [OS error 116: ESTALE Stale file handle]", OSError),
        ("Error reading [OS error 5: EIO Input/output error]", OSError),
    ],
)
@pytest.mark.parametrize("set_aside", [False, True])
def test_an_error_of_the_machine_is_not_damage(tmp_path, monkeypatch, text, kind, set_aside):
    """tensorstore raises a ValueError without errno, with the number in its text."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step))
    before = everything_in(tmp_path)

    def refuse(*_, **__):
        raise ValueError(text)

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints, "_load", refuse)
        with pytest.raises(kind, match="OS error") as raised:
            checkpoints.restore(abstract(make_state(0)), set_aside=set_aside)
    assert not isinstance(raised.value, DamagedError) and everything_in(tmp_path) == before


def test_a_file_that_may_not_be_read_is_not_damage(tmp_path, monkeypatch):
    """As for a user who lacks permission, whatever the decoder makes of it."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1))
    secret = next(path for path in (tmp_path / "1" / "default").rglob("*") if path.is_file())

    def opened(path, *args, **kwargs):
        if Path(path) == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *args, **kwargs)

    def undecodable(*_, **__):
        raise RuntimeError("unexpected end of input")

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints, "_load", undecodable)
        monkeypatch.setattr(checkpoint, "open", opened, raising=False)
        with pytest.raises(PermissionError, match="Permission denied"):
            checkpoints.restore(abstract(make_state(0)), set_aside=True)
    assert (tmp_path / "1").is_dir()


@pytest.mark.parametrize("name", ["exp[1]", "a*b", "q?", "[!x]"])
def test_a_path_like_a_pattern(tmp_path, name):
    """orbax finds its files by unescaped patterns: what it wrote below exp[1] could not be read again."""
    where = tmp_path / name / "checkpoints"
    with Checkpoints(where, keep_newest=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), {"step": step})
    with Checkpoints(where) as fresh:
        assert fresh.steps() == [2] and fresh.card(2) == {"step": 2}
        assert_same(fresh.restore(abstract(make_state(0))), make_state(2))
        fresh.verify(2)


def test_older_ones_stay_until_the_new_one_was_read(tmp_path, monkeypatch):
    """The storage returns zeros for what was just written: one line, and the step before is still there."""
    with Checkpoints(tmp_path, keep_newest=1) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.wait()
        manager = checkpoints._manager
        wait = manager.wait_until_finished

        def lose():
            wait()
            for file in (tmp_path / "2").rglob("*"):
                if file.is_file() and "ocdbt" not in file.parts[-1] and file.parent.name == "d":
                    file.write_bytes(bytes(file.stat().st_size))

        monkeypatch.setattr(manager, "wait_until_finished", lose)
        checkpoints.save(2, make_state(2))
        with pytest.raises(
            checkpoint.WriteError, match=r"step 2 was written to .* cannot be read again: .* can be is of step 1"
        ):
            checkpoints.save(3, make_state(3))
        monkeypatch.undo()
        assert checkpoints.steps() == [1] and (tmp_path / ".damaged" / "2").is_dir()
        assert_same(checkpoints.restore(abstract(make_state(0))), make_state(1))
        checkpoints.save(3, make_state(3))
        checkpoints.wait()
        assert checkpoints.steps() == [3]


def test_a_full_disk(tmp_path):
    """Files may not grow beyond 2 kB: an error of one line, and what was there stays."""
    code = f"""
import resource, numpy as np
from io_lib.checkpoint import Checkpoints, WriteError
with Checkpoints({str(tmp_path / "c")!r}) as checkpoints:
    checkpoints.save(1, {{"x": np.arange(10.0)}})
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        checkpoints.save(2, {{"x": np.random.default_rng(0).normal(size=10_000)}})
        checkpoints.wait()
    except WriteError as error:
        print(error)
        print(checkpoints.steps())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    message, steps = done.stdout.splitlines()[:2]
    assert message.startswith(f"a checkpoint could not be written to {tmp_path / 'c'}: "), done
    assert steps == "[1]"


def test_a_checkpoint_of_another_layout_stays_where_it_is(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(5, args=ocp.args.StandardSave({"params": {"w": np.ones(3)}}))
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"5 is not a checkpoint of this version: it holds \['params'\]"):
            checkpoints.restore(abstract(make_state(0)))
        assert checkpoints.steps() == [5]


@pytest.mark.parametrize("failures", [1, 9])
def test_an_error_that_passes_while_a_checkpoint_is_read_back(tmp_path, monkeypatch, failures):
    """Tried again; if it stays, the run stops, and both checkpoints are there."""
    monkeypatch.setattr(checkpoint, "RETRIES", (0.01, 0.01, 0.0))
    with Checkpoints(tmp_path, keep_newest=1) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.wait()
        load, calls = checkpoints._load, []

        def stale(*args, **kwargs):
            calls.append(args)
            if len(calls) <= failures:
                raise ValueError("UNAVAILABLE: [OS error 116: ESTALE Stale file handle]")
            return load(*args, **kwargs)

        monkeypatch.setattr(checkpoints, "_load", stale)
        checkpoints.save(2, make_state(2))
        if failures == 1:
            checkpoints.wait()
            assert checkpoints.steps() == [2]
        else:
            with pytest.raises(checkpoint.WriteError, match=r"step 2 .* cannot be read again: .*ESTALE"):
                checkpoints.wait()
            assert checkpoints.steps() == [1, 2] and not (tmp_path / ".damaged").exists()

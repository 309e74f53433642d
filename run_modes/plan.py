"""--mode=plan: the device memory that training requires, before it starts, from XLA's analysis of the compiled step.

    peak = arguments + outputs − aliased + temporary        bytes per device                             (1)

for one call of the training step. Its arguments are the state (parameters, EMA, optimizer) and a batch. Its outputs are
the new state, which is aliased with the old one, since that is donated. (1) does not include:

    the rest of the process: Python, XLA's code and data in memory, some hundreds of MB of host memory
    programs of samplers and evaluations, which run while no step does
    the scratch space of library kernels

All but the state is about proportional to the number of examples processed at a time. So one compilation suffices to
estimate what fits.
"""

import math
import re
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from run_modes.experiment import Experiment, make_experiment
from run_modes.paths import require_config
from run_modes.state import abstract_state
from run_modes.training_loop import abstract_batch, steps_per_call, train_steps

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Plan(NamedTuple):
    """Bytes on each of `devices` devices; `limit` is None if the device does not report its memory."""

    parameters: int
    ema: int
    optimizer: int
    batch: int
    temporary: int
    peak: int
    devices: int
    device: str
    limit: int | None

    @property
    def state(self) -> int:
        return self.parameters + self.ema + self.optimizer

    def fits(self) -> bool:
        return self.limit is None or self.peak <= self.limit

    def __str__(self) -> str:
        rows = {
            "parameters": self.parameters,
            "their average (EMA)": self.ema,
            "optimizer": self.optimizer,
            "batch": self.batch,
            "temporary, in the compiled step": self.temporary,
            "peak": self.peak,
        }
        lines = [f"{name:<32} {shown(size):>12}  {size:,} bytes" for name, size in rows.items()]
        limit = "unknown" if self.limit is None else shown(self.limit)
        return "\n".join([f"on each of {self.devices} devices ({self.device}), memory limit {limit}", *lines])


def plan(config: ConfigDict, memory: str | None = None, devices: list | None = None) -> Plan:
    """Compiles the training step and prints its memory. Nothing is computed or written, and no data are required.

    `memory`, such as "16GiB" or "500MB", replaces the device's own limit. ConfigError for a config that does not fit,
    in one line with what to try; and for one that `train` refuses.
    """
    require_config(config)
    limit = None if memory is None else parse_size(memory)
    found = measured_plan(make_experiment(config, devices))
    found = found if limit is None else found._replace(limit=limit)
    print(found)
    if found.limit is not None and not found.fits():
        tries = "; ".join(to_try(config, found))
        raise ConfigError(f"{shown(found.peak)} do not fit into {shown(found.limit)}. To try: {tries}")
    return found


def measured_plan(experiment: Experiment) -> Plan:
    """(1) for the call that training makes, with one step or several."""
    config, devices = experiment.config, experiment.devices
    state = abstract_state(experiment)
    batch, calls = abstract_batch(experiment), steps_per_call(config)
    one_step, many_steps = train_steps(experiment)
    if calls > 1:
        several = NamedSharding(devices.batch.mesh, PartitionSpec(None, *devices.batch.spec))
        batch = jax.tree.map(lambda v: jax.ShapeDtypeStruct((calls, *v.shape), v.dtype, sharding=several), batch)
    found = (one_step if calls == 1 else many_steps).lower(state, batch).compile().memory_analysis()
    if found is None:
        raise ConfigError(f"the compiler for {jax.default_backend()} has no memory analysis")
    return Plan(
        parameters=size_of(state.params),
        ema=size_of(state.ema_params),
        optimizer=size_of(state.opt_state),
        batch=size_of(batch) // devices.count,
        temporary=found.temp_size_in_bytes,
        peak=peak_of(found),
        devices=devices.count,
        device=jax.devices()[0].device_kind,
        limit=device_memory(),
    )


def peak_of(found: Any) -> int:
    """(1)."""
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + results + found.temp_size_in_bytes


def size_of(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_memory() -> int | None:
    """The memory limit of the first device; for a CPU, the system's available memory."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats or jax.default_backend() != "cpu":
        return stats.get("bytes_limit")
    try:
        with open("/proc/meminfo") as file:
            match = re.search(r"MemAvailable:\s+(\d+) kB", file.read())
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def to_try(config: ConfigDict, found: Plan) -> list[str]:
    """Changes that would make a plan fit that does not, by the proportion at the head of this module."""
    assert found.limit is not None  # a plan without a limit fits
    rest, room = found.peak - found.state, found.limit - found.state
    if room <= 0:
        return [f"parameters, EMA and optimizer alone take {shown(found.state)}: a smaller network or a larger device"]
    size, parts = config.training.batch_size, config.training.get("accumulate", 1)
    tries = []
    for k in range(parts + 1, size // found.devices + 1):
        if size % (k * found.devices) == 0 and rest * parts / k <= room:
            tries.append(f"config.training.accumulate={k}, the same batch in {k} parts")
            break
    if config.network.get("remat") is False:
        tries.append("config.network.remat=True, which stores fewer activations and computes them again")
    smaller = int(size * room / rest) // (found.devices * parts) * found.devices * parts
    if smaller:
        tries.append(f"config.training.batch_size={smaller}, which changes the training")
    return tries or ["a smaller network or a larger device"]


def parse_size(text: str) -> int:
    """The bytes of a size such as 16GiB, 500 MB or 8e9. ConfigError for any other text."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    number, unit = match.groups() if match else ("", "")
    try:
        size = int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError) as error:
        raise ConfigError(f"--memory={text}: expected a size such as 16GiB, 500MB or 8e9") from error
    if size <= 0:
        raise ConfigError(f"--memory={text}: expected more than 0 bytes")
    return size


def shown(size: int) -> str:
    """A size for people: 1.5 GiB."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} bytes"

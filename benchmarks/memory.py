"""The memory plan beside what training steps then take: `python -m benchmarks.memory [--batch_size=256]`.

On a GPU or TPU the device's own count of peak bytes. On a CPU, whose devices keep none, how much resident memory of
this process grows over three steps (the kernel's VmHWM, reset before, less the VmRSS of then): the programs are
compiled before that, freed memory is given back to the system, and the state is made afterwards.
"""

import argparse
import ctypes
import gc
import importlib
import re
import sys

import jax
import numpy as np

from run_modes import plan
from run_modes.experiment import make_experiment
from run_modes.state import abstract_state, new_state
from run_modes.training_loop import train_steps

STEPS = 3


def resident(name: str) -> int:
    """VmRSS, what is resident now, or VmHWM, the most since the last reset; bytes."""
    with open("/proc/self/status") as file:
        return int(re.search(rf"{name}:\s+(\d+) kB", file.read())[1]) * 1024


def settle() -> int:
    """Gives freed memory back, starts VmHWM anew; what is resident then."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return resident("VmRSS")


def measure(config) -> tuple[plan.Plan, int, int]:
    """The plan, and the peak of bytes over STEPS steps on one device: of the first in this process, and of others."""
    experiment = make_experiment(config, jax.devices()[:1])
    config.training.steps_per_call = 1
    planned = plan.measured_plan(experiment)
    state = abstract_state(experiment)
    batch = plan.abstract_batch(config, experiment.devices)
    step = train_steps(experiment)[0].lower(state, batch).compile()
    make = jax.jit(lambda: new_state(experiment), out_shardings=experiment.devices.replicated).lower().compile()
    x = np.zeros(batch["x"].shape, np.float32)

    def steps() -> int:
        before = settle()
        found, batch = make(), experiment.devices.put({"x": x})
        for _ in range(STEPS):
            found, metrics = step(found, batch)
            jax.block_until_ready(metrics)
        stats = jax.devices()[0].memory_stats()
        return stats["peak_bytes_in_use"] if stats else resident("VmHWM") - before

    first = steps()
    return planned, first, steps()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="digits", help="a name in configs/")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--accumulate", type=int, default=1)
    options = parser.parse_args()
    config = importlib.import_module(f"configs.{options.config}").get_config()
    config.training.update(batch_size=options.batch_size, accumulate=options.accumulate)
    planned, first, found = measure(config)
    print(planned)
    print(f"measured over the first {STEPS} steps {plan.shown(first)}, planned / measured {planned.peak / first:.3f}")
    print(f"measured over {STEPS} others          {plan.shown(found)}, planned / measured {planned.peak / found:.3f}")
    sys.exit(abs(planned.peak / found - 1) > 0.15)


if __name__ == "__main__":
    main()

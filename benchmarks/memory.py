"""The memory plan compared with the memory of training steps: `python -m benchmarks.memory [--batch_size=256]`.

On a GPU or TPU this is the device's count of peak bytes. A CPU has no such count: there it is the growth of this
process's resident memory over three steps, as the kernel's VmHWM after them minus VmRSS before them. Before the
measurement, programs are compiled and freed memory is returned to the system. The state is allocated during it.
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
from run_modes.training_loop import abstract_batch, train_steps

STEPS = 3


def resident(name: str) -> int:
    """Bytes of VmRSS, the resident memory now, or VmHWM, its maximum since the last reset."""
    with open("/proc/self/status") as file:
        return int(re.search(rf"{name}:\s+(\d+) kB", file.read())[1]) * 1024


def settle() -> int:
    """Returns freed memory to the system and resets VmHWM; the resident bytes then."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return resident("VmRSS")


def measure(config) -> tuple[plan.Plan, int, int]:
    """The plan, and peak bytes on one device over the first STEPS steps of this process, and over STEPS others."""
    experiment = make_experiment(config, jax.devices()[:1])
    config.training.steps_per_call = 1
    planned = plan.measured_plan(experiment)
    state = abstract_state(experiment)
    batch = abstract_batch(experiment)
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

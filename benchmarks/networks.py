"""Forward pass and training step of a network: time to compile and to run, memory, and operations.

    python benchmarks/networks.py [--config configs/cifar10.py] [--batch 0] [--repeats 5] [--dtype bfloat16] [--remat]
    XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= python benchmarks/networks.py     # as `make digits` runs on a CPU

The default batch is 4 on a CPU and 128 on an accelerator. `step` is the library's training step: loss, gradient,
clipping, Adam, EMA. Parameters are random numbers, since initialization would take longer than everything else. Times
are minima over the repeats. `cpu` is the processor time of all threads, which other work on the machine affects less
than wall-clock time. Memory is from the compiler's analysis: arguments, results and temporary arrays.

The arithmetic of a program, and so the rate, counts its convolutions and matrix products before XLA optimizes it. The
table of operations counts those of the optimized program, with the bytes that they write and their arithmetic.
`transpose` and `copy` are changes of layout. On a GPU convolutions are calls of cuDNN; matrix products are calls of
cuBLAS, whose arithmetic is not counted, or parts of fusions.
"""

import argparse
import re
import time
from collections import defaultdict
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from config_lib.command_line import load_config
from published_lib.score_sde_names import parameter_shapes
from run_modes.experiment import make_experiment
from run_modes.training_loop import compiler_options
from sde_lib import init_state, make_train_step

BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "s8": 1, "u8": 1}
LAYOUT = ("transpose", "copy")
# Name, dtype and sizes of the result, opcode, operands, the rest; a call's result is the first of several.
OPERATION = r"\s+(?:ROOT )?%?([\w.-]+) = (\w+)\[([\d,]*)\]\S* ([\w-]+)\(([^)]*)\)(.*)"
CALL = r"\s+(?:ROOT )?%?([\w.-]+) = \((\w+)\[([\d,]*)\].*? (custom-call)\(([^)]*)\)(.*)"


def drawn_params(shapes):
    """Parameters of these shapes: small normal random numbers."""
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.02 * generator.normal(size=leaf.shape), leaf.dtype), shapes)


def programs(config, batch: int) -> dict:
    """name → (function, arguments, donated arguments) of the forward pass and of a training step."""
    experiment = make_experiment(config)
    params = drawn_params(parameter_shapes(experiment.network, tuple(config.shape)))
    x = jax.random.normal(jax.random.key(0), (batch, *config.shape))
    state = init_state(jax.random.key(1), jax.tree.map(jnp.copy, params), experiment.tx)
    step = make_train_step(experiment.network, experiment.objective, experiment.tx, config.training.ema)
    return {
        "forward": (partial(experiment.network), (params, x, jnp.full(batch, 0.5)), ()),
        "step": (step, (state, {"x": x}), (0,)),
    }


def compiled(function, arguments, donated):
    """(program, seconds to compile it with empty caches, its arithmetic); a step has the options of training."""
    jax.clear_caches()
    options = compiler_options() if donated else None
    lowered = jax.jit(function, donate_argnums=donated, compiler_options=options).lower(*arguments)
    start = time.perf_counter()
    program, seconds = lowered.compile(), time.perf_counter() - start
    return program, seconds, sum(work for _, _, work in operations(lowered.as_text(dialect="hlo")).values())


def least_times(program, arguments, donated, repeats: int) -> tuple[float, float]:
    """Minimum wall-clock and processor seconds of one call; the first call is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter(), time.process_time()
        out = jax.block_until_ready(program(*arguments))
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        if donated:
            arguments = (out[0], *arguments[1:])
    return tuple(min(column) for column in zip(*times[1:], strict=True))


def memory(program) -> float:
    """Peak GiB by the compiler's analysis; donated arguments count once."""
    m = program.memory_analysis()
    total = m.temp_size_in_bytes + m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
    return total / 2**30


def operations(text: str) -> dict[str, tuple[int, float, float]]:
    """opcode → (count, bytes written, arithmetic operations) over all computations in a program's text.

    An operation inside a fusion writes no bytes, and is counted under a name with `(fused)`.
    """
    found, shapes = defaultdict(lambda: [0, 0.0, 0.0]), {}
    fused = False
    for line in text.splitlines():
        if not line.startswith(" "):
            fused = "fused" in line or "fusion" in line
        match = re.match(OPERATION, line) or re.match(CALL, line)
        if not match:
            continue
        name, dtype, dims, opcode, operands, rest = match.groups()
        opcode = " ".join([opcode, *re.findall(r'custom_call_target="__(\S+)"', rest)])
        shapes[name] = tuple(int(n) for n in dims.split(",") if n)
        entry = found[f"{opcode} (fused)" if fused else opcode]
        entry[0] += 1
        entry[1] += 0 if fused else prod(shapes[name]) * BYTES.get(dtype, 4)
        entry[2] += arithmetic(opcode, shapes, name, re.findall(r"[\w.-]+", operands), rest)
    return {opcode: tuple(values) for opcode, values in found.items()}


def arithmetic(opcode: str, shapes: dict, name: str, operands: list[str], rest: str) -> float:
    """Twice the multiplications of a convolution or matrix product, else 0."""
    sizes = [shapes.get(operand, ()) for operand in operands]
    if opcode == "dot" and sizes[0]:
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)[1]
        return 2.0 * prod(shapes[name]) * prod(sizes[0][int(i)] for i in contracted.split(",") if i)
    if (opcode == "convolution" or "$conv" in opcode) and len(sizes) > 1 and sizes[1]:
        out, kernel = shapes[name], sizes[1]
        if "convBackwardInput" in opcode:  # labels are those of the forward convolution, whose output is operand 0
            out = sizes[0]
        if "convBackwardFilter" in opcode:
            out, kernel = kernel, out
        labels = re.search(r"dim_labels=\w+_(\w+)->", rest)[1]
        return 2.0 * prod(out) * prod(kernel) / max(kernel[labels.index("o")], 1)
    return 0.0


def report(name: str, program, seconds: float, total: float, times: tuple[float, float], config, batch: int) -> None:
    rate = f"{total / 1e9 / times[0]:.0f}" if total else ""
    print(
        f"| {name} | {batch} | {config.network.dtype or 'float32'} | {seconds:.1f} | {times[0]:.4g} | {times[1]:.3f} "
        f"| {memory(program):.2f} | {total / 1e9:.0f} | {rate} |",
        flush=True,
    )


def print_operations(program, at_least: float = 0.01) -> None:
    """Prints the operations that write more than 1 % of all bytes, do arithmetic, or change layouts."""
    found = operations(program.as_text())
    written = sum(values[1] for values in found.values())
    print("\n| operation | count | MB written | GFLOP |\n|---|--:|--:|--:|")
    for opcode, (count, size, work) in sorted(found.items(), key=lambda item: -item[1][1]):
        if size > at_least * written or work or opcode.split()[0] in LAYOUT:
            print(f"| {opcode} | {count} | {size / 1e6:.0f} | {work / 1e9:.1f} |")
    print(flush=True)


def main(config, batch: int = 0, repeats: int = 5, names: tuple[str, ...] = ("forward", "step")) -> None:
    batch = batch or (4 if jax.default_backend() == "cpu" else 128)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    print("| program | batch | dtype | compile, s | run, s | cpu, s | memory, GiB | GFLOP | GFLOP/s |")
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|")
    found = {}
    for name, (function, arguments, donated) in programs(config, batch).items():
        if name in names:
            found[name], seconds, total = compiled(function, arguments, donated)
            times = least_times(found[name], arguments, donated, repeats)
            report(name, found[name], seconds, total, times, config, batch)
    for name, program in found.items():
        print(f"\n{name}:")
        print_operations(program)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/cifar10.py")
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--only", default="forward,step")
    parser.add_argument("--blocks", type=int, default=0, help="blocks per level, if not the config's")
    args = parser.parse_args()
    chosen = load_config(args.config)
    chosen.network.dtype, chosen.network.remat = args.dtype, args.remat
    chosen.network.num_res_blocks = args.blocks or chosen.network.num_res_blocks
    main(chosen, args.batch, args.repeats, tuple(args.only.split(",")))

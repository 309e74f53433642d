"""--mode=push: a run on the Hugging Face Hub: its config, one checkpoint, its record, and a model card."""

import json
import re
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from io_lib import hub, workdir
from io_lib.checkpoint import Checkpoints, DamagedError
from run_modes.compare import figures

RECORD = ("metrics.jsonl", "data.json", "config_history.jsonl", "base_config.json")
LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "unlicense", "openrail"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
)
"""Licenses whose identifiers the Hub and SPDX share, apart from capitals; it takes others by their names."""


def push(directory: str | Path, to: str, step: int | None = None, private: bool = False) -> str:
    """Uploads a run to the repository `to`, "owner/name", for `load("hf:owner/name")`; returns its address.

    Uploaded are config.json, the checkpoint of `step` or the newest, the log of training, the hashes of the data, a
    picture of samples, and a model card as README.md. Data, caches of samples and TensorBoard's events are not. Files
    and sizes are printed first. The checkpoint is read and verified first, and replaces one that is there.

    ConfigError if it is not a work directory, has no such checkpoint, the name is malformed, or the Hub refuses.
    """
    hub.require_local(directory)
    repository, revision = hub.parse(to if hub.is_remote(to) else hub.PREFIX + to)
    if revision is not None:
        raise ConfigError(f"--to={to}: expected OWNER/NAME; a push makes the newest revision")
    directory = Path(directory)
    step, card = checked(directory, step)
    config = workdir.load_config(directory)
    files = files_of(directory, step)
    text = model_card(repository, step, card, config, figures(directory / "eval"), "samples.png" in files)
    sizes = {f"checkpoints/{step}": 0} | {path: 0 for path in files if not path.startswith("checkpoints/")}
    for path, file in files.items():
        sizes[path if path in sizes else f"checkpoints/{step}"] += file.stat().st_size
    sizes["README.md"] = len(text.encode())
    print(f"{directory} → {hub.PREFIX}{repository}: {', '.join(f'{path} {readable(n)}' for path, n in sizes.items())}")
    for remark in remarks(card, config):
        print(remark)
    print(f"uploading {readable(sum(sizes.values()))}", flush=True)
    address = hub.upload(repository, {**files, "README.md": text.encode()}, f"Step {step}", private)
    print(address)
    return address


def checked(directory: Path, step: int | None) -> tuple[int, dict[str, Any]]:
    """The step to upload and its card. ConfigError if there is none, or if a leaf differs from what was written."""
    if not (directory / workdir.CONFIG).is_file():
        raise ConfigError(f"{directory} is not a work directory: it has no {workdir.CONFIG}")
    with Checkpoints(directory / "checkpoints") as checkpoints:
        steps = checkpoints.steps()
        if not steps or (step is not None and step not in steps):
            raise ConfigError(f"{directory} has no checkpoint{'' if step is None else f' of step {step}'}: {steps}")
        step = steps[-1] if step is None else step
        try:
            checkpoints.verify(step)
            return step, checkpoints.card(step)
        except DamagedError as error:
            raise ConfigError(str(error)) from error


def files_of(directory: Path, step: int) -> dict[str, Path]:
    """Path in the repository → file, of everything that is uploaded but the model card."""
    checkpoint = sorted(path for path in (directory / "checkpoints" / str(step)).rglob("*") if path.is_file())
    named = {name: directory / name for name in (workdir.CONFIG, *RECORD) if (directory / name).is_file()}
    snapshots = sorted((directory / "samples").glob("step_*.png"))
    drawn = [path for path in (directory / "samples" / "samples.png", *snapshots[::-1]) if path.is_file()]
    if drawn:
        named["samples.png"] = drawn[0]
    return named | {path.relative_to(directory).as_posix(): path for path in checkpoint}


def remarks(card: dict[str, Any], config: ConfigDict) -> list[str]:
    """What the owner of a run may want to change before it is shared."""
    found = []
    if license_of(card) is None:
        found.append("the license of the weights is not stated: set config.license before training")
    found.append("the license of the data is not recorded: check that it allows you to share what was trained on them")
    if paths := [
        value for value in config.get("data", {}).values() if isinstance(value, str) and value.startswith("/")
    ]:
        found.append(f"{workdir.CONFIG} and the checkpoint name the place of the data: {', '.join(paths)}")
    return found


def license_of(card: dict[str, Any]) -> str | None:
    """The license of the weights, by config.license; None if it is not stated."""
    found = card.get("license", "not stated")
    return None if found == "not stated" else str(found)


def model_card(
    repository: str, step: int, card: dict[str, Any], config: ConfigDict, evaluation: dict[str, str], picture: bool
) -> str:
    """The README.md of a repository: the YAML that the Hub reads, how to load the run, and what its card says."""
    data, protocol = card.get("data", {}), card.get("protocol", {})
    sde, network = (short(protocol.get(name, config.get(name, {}))) for name in ("sde", "network"))
    lines = [
        *head(card, config, sde),
        f"# {repository.partition('/')[2]}",
        "",
        f"A score-based generative model: {sde} with {network}, at step {step}, trained by score-sde-jax.",
        "",
        *(["![Samples](samples.png)", ""] if picture else []),
        "```python",
        "import jax, run_lib",
        f'model = run_lib.load("{hub.PREFIX}{repository}")',
        "x = model.sample(jax.random.key(0), 16)",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| license of the weights | {cell(license_of(card) or 'not stated')} |",
        "| license of the data | not recorded |",
        f"| data | {cell(identity(data))} |",
        f"| shape | {cell(tuple(config.get('shape', ())))} |",
        f"| EMA | {cell(card.get('ema', 'unknown'))} |",
        f"| SHA-256 of the EMA parameters | {cell(card.get('hash', {}).get('ema_params', 'unknown'))} |",
        f"| code | {cell(card.get('code', 'unknown'))} |",
        *[f"| {cell(name)} | {cell(version)} |" for name, version in card.get("versions", {}).items()],
    ]
    if evaluation:
        lines += ["", "The last evaluation:", "", "| figure | value |", "|---|--:|"]
        lines += [f"| {cell(name.removeprefix('eval: '))} | {cell(value)} |" for name, value in evaluation.items()]
    return "\n".join(lines) + "\n"


def head(card: dict[str, Any], config: ConfigDict, sde: str) -> list[str]:
    """The YAML at the head of a model card. Every value is quoted as in JSON, which is YAML too."""
    found = license_of(card)
    known = found is not None and found.lower() in LICENSES
    entries: dict[str, Any] = {"license": "unknown" if found is None else found.lower() if known else "other"}
    if found is not None and not known:
        entries["license_name"] = re.sub(r"[^a-z0-9.]+", "-", found.lower()).strip("-") or "other"
    entries["library_name"] = "score-sde-jax"
    entries["tags"] = ["score-based-generative-models", "diffusion", "jax", "flax", sde]
    if len(config.get("shape", ())) == 3 and config.shape[-1] in (1, 3):
        entries["pipeline_tag"] = "unconditional-image-generation"
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in entries.items()), "---", ""]


def identity(data: dict[str, Any]) -> str:
    """The function that made the data, the number of examples and the hash of each split, without any path."""
    source = data.get("source", "unknown")
    hashes = data.get("sha256", {})
    splits = [f"{data[name]} {name} examples, SHA-256 {digest}" for name, digest in hashes.items() if name in data]
    return "; ".join([source if isinstance(source, str) else short(source), *splits])


def short(section: Any) -> str:
    """The name of a class or function that a section of a config specifies, without its package."""
    name = next((section[kind] for kind in ("call", "bind") if kind in section), "unknown")
    return str(name).rpartition(":")[2]


def cell(value: Any) -> str:
    """Text of a cell of a table: one line, without the marks of cells and of HTML."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def readable(size: int) -> str:
    """A number of bytes, as 1.2 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"

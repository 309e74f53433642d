"""--mode=restore --task=infill --text="… [____] …": completions of a text, drawn by a trained model.

Each run of underscores in brackets is filled with as many characters; the rest is known. A text is as long as a window
of training, or shorter. A masked process is conditioned on the known characters exactly; a uniform process by
replacement; bits under an SDE by config.restore.method, with y the known bits.

    OUT/answer_0.txt …    the completed texts
    OUT/restored.npz      their samples [1, n, *shape]
    OUT/report.json       the text, and the completions
"""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from data_lib.sequences import binary
from data_lib.texts import tokens_of
from io_lib import workdir
from run_modes.page import write_page
from run_modes.trained import Trained, open_trained
from sde_lib.posterior import Mask, Observation

GAP = re.compile(r"\[(_+)\]")


def infill(
    directory: str | Path,
    text: str,
    num_samples: int = 4,
    seed: int = 0,
    config: ConfigDict | None = None,
    out: str | Path | None = None,
    devices: list | None = None,
    step: int | None = None,
) -> list[str]:
    """Draws `num_samples` completions of the text into the folder `out`, DIRECTORY/restored/infill by default.

    Returns them, and prints them. Completion j is a function of (seed, j). ConfigError for a text without a gap, with a
    character outside the alphabet (by its column), or longer than a window; and if the model is not of texts.
    """
    trained = open_trained(directory, config, devices, step)
    form: Any = trained.experiment.form
    if not hasattr(form, "texts"):
        raise ConfigError(f"--task=infill: {directory} is no model of texts")
    characters, hidden = gaps_of(text or "")
    if len(characters) > trained.config.shape[0]:
        raise ConfigError(
            f"--text has {len(characters)} characters: expected at most {trained.config.shape[0]}, a window"
        )
    try:
        tokens = tokens_of(characters, form.alphabet, "--text")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    draw = infill_tokens if hasattr(trained.model, "infill") else infill_bits
    x = draw(trained, tokens, hidden, num_samples, seed)
    answers = form.texts(x)
    write(Path(out) if out else trained.directory / "restored" / "infill", text, answers, x)
    write_page(directory)
    return answers


def gaps_of(text: str) -> tuple[str, np.ndarray]:
    """(the text without brackets, with any characters in the gaps; which characters are hidden [L])."""
    if not GAP.search(text):
        raise ConfigError(f'--text={text!r}: expected a gap, underscores in brackets: --text="The [____] statement"')
    filler = next((c for c in text if c not in "[_]"), " ")
    parts, at, hidden = [], 0, []
    for gap in GAP.finditer(text):
        known = text[at : gap.start()]
        parts += [known, filler * len(gap[1])]
        hidden += [False] * len(known) + [True] * len(gap[1])
        at = gap.end()
    return "".join([*parts, text[at:]]), np.array(hidden + [False] * len(text[at:]))


def infill_tokens(trained: Trained, tokens: np.ndarray, hidden: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Completions [n, L] by a TokenModel."""
    model: Any = trained.model.replace(shape=tokens.shape)  # a TokenModel
    return model.infill(jax.random.key(seed), np.where(hidden, -1, tokens)[None], n)[0]


def infill_bits(trained: Trained, tokens: np.ndarray, hidden: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Completions [n, L, bits] by posterior samples of a ScoreModel, given the known bits."""
    from run_modes.restore import method_of

    bits = binary(tokens, trained.config.shape[1]).astype(np.float32)
    known = np.broadcast_to(~hidden[:, None], bits.shape).astype(np.float32)
    model = trained.model.replace(shape=bits.shape)
    observation = Observation(y=jnp.asarray(bits * known)[None], operator=Mask(mask=jnp.asarray(known)), noise_std=0.0)
    try:
        x = model.posterior(jax.random.key(seed), observation, n, method_of(trained.config))[0]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.restore.method: {error}") from error
    return np.where(known[None] > 0, bits[None], x)


def write(folder: Path, text: str, answers: list[str], x: np.ndarray) -> None:
    """Writes and prints the completions."""
    folder.mkdir(parents=True, exist_ok=True)
    for j, answer in enumerate(answers):
        workdir.write_atomic(folder / f"answer_{j}.txt", answer)
        print(f"── {j} ──\n{answer}")
    np.savez(folder / "restored.npz", samples=np.asarray(x)[None])
    report = {"task": "infill", "noise_std": 0.0, "text": text, "mean": {}, "each": [{"answer": a} for a in answers]}
    workdir.write_atomic(folder / "report.json", json.dumps(report, indent=1))
    print(f"{len(answers)} completions: {folder}")

"""Bits per character of a text, and how its model's samples look to a trigram model, as config.eval.text specifies.

    split, count     the first `count` windows of the split
    bits             the bound of `sde_lib.discrete.bounds`, or that of `elbo` for bits under an SDE: mean over windows,
                     and its standard error, which includes that of the draws
    ngrams           bits per character of the same windows by the models of `eval_lib.ngrams`, fitted on training text
    samples          bits per character of samples by the trigram model, and the entropy of their characters

A text that a model likes need not be a good text: "aaaa" has few bits by any model. So the bits of samples ("generative
perplexity") are reported next to their entropy, and next to both of the test text. Only the bound compares models.
"""

from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError
from data_lib import Dataset, gather
from data_lib.identity import digest
from data_lib.texts import tokens_of
from eval_lib.ngrams import ngram_bits
from io_lib.shards import Shards, fill, mapped
from run_modes.sample import samples_of
from run_modes.trained import Trained, made_with, require_finite
from sde_lib import nats_to_bits

SPLITS = ("test", "train")
ORDERS = (1, 2, 3)


def wanted(config: ConfigDict) -> bool:
    """Whether config.eval.text names a split. ConfigError for an unknown one."""
    split = config.eval.get("text", {}).get("split", "")
    if split not in ("", *SPLITS):
        raise ConfigError(f"config.eval.text.split is {split!r}: expected one of {', '.join(SPLITS)}, or '' for none")
    return bool(split)


def text_bits_of(trained: Trained, dataset: Dataset, seed: int, folder: Path) -> dict | None:
    """See the module's head, in JSON's types; values per window in folder/text_bits_SPLIT.npz. None if a signal stopped
    it. ConfigError for data that are no texts."""
    options, form = trained.config.eval.text, cast(Any, trained.experiment.form)
    if not hasattr(form, "texts"):
        raise ConfigError("config.eval.text: the data are no texts")
    source = getattr(dataset, options.split)
    count = min(options.count or len(source), len(source))
    bits = bits_of_windows(trained, source, count, seed, folder)
    if bits is None:
        return None
    every = max(
        1, int(trained.config.shape[0]) // (trained.config.data.get("stride", 0) or int(trained.config.shape[0]))
    )
    alphabet = form.alphabet or "".join(map(chr, range(256)))
    train, test = (
        windows(form, source, np.arange(0, n, step), alphabet)
        for source, n, step in ((dataset.train, len(dataset.train), every), (source, count, 1))
    )
    grams = {str(n): ngram_bits(train, test, n, len(alphabet)) for n in ORDERS}
    found = {"split": options.split, "count": count, "length": int(trained.config.shape[0]), "bits": summary(bits)}
    found["ngrams"] = {n: summary(values) for n, values in grams.items()}
    if options.samples:
        drawn = samples_of(trained, options.samples, seed)
        if drawn is None:
            return None
        x = known_tokens(form.texts(np.asarray(drawn[0])), alphabet)
        found["samples"] = {
            "count": len(x),
            "trigram_bits": summary(ngram_bits(train, x, 3, len(alphabet))),
            "entropy": entropy(x),
            "entropy_of_text": entropy(test),
        }
    return found


def windows(form, source, indices: np.ndarray, alphabet: str) -> np.ndarray:
    """The tokens [N, L] of examples."""
    return known_tokens(form.texts(form.of_data(gather(source, indices)["x"])), alphabet)


def known_tokens(texts: list[str], alphabet: str) -> np.ndarray:
    """The tokens [N, L] of texts of one length. A character outside the alphabet counts as its first."""
    known = set(alphabet)
    return np.stack([tokens_of("".join(c if c in known else alphabet[0] for c in t), alphabet, "text") for t in texts])


def entropy(x: np.ndarray) -> float:
    """−Σ p log₂ p of the characters' frequencies, in bits."""
    p = np.bincount(x.ravel()) / x.size
    return float(-np.sum(p[p > 0] * np.log2(p[p > 0])))


def summary(values: np.ndarray) -> dict[str, float]:
    """The mean, and its standard error over windows."""
    return {"mean": float(np.mean(values)), "error": float(np.std(values) / np.sqrt(len(values)))}


def bits_of_windows(trained: Trained, source, count: int, seed: int, folder: Path) -> np.ndarray | None:
    """Bits per character of the first `count` windows [count], cached batch by batch; None if a signal stopped it."""
    options, devices = trained.config.eval.text, trained.experiment.devices
    used = {"text": {"split": options.split, "times": options.times}, "examples": digest(source)}
    shards = Shards(folder / "shards", f"text_{options.split}_step{trained.step}", made_with(trained, seed, used))
    model = jax.device_put(trained.model.replace(split=devices.batch), devices.replicated)
    size, key, length = devices.whole(trained.config.eval.batch_size), jax.random.key(seed), trained.config.shape[0]
    levels = {"levels": (0, 1)} if hasattr(model, "log_prob") else {}

    def batch(first: int) -> tuple[np.ndarray, np.ndarray]:
        x = gather(source, np.minimum(np.arange(first, first + size), len(source) - 1))["x"]
        try:
            bound = model.elbo(key, x, options.times, **levels, first=first)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.eval.text: {error}") from error
        bits = np.asarray(nats_to_bits(bound.value, length))[: len(source) - first, None]
        require_finite(bits, first, "window", "the network's output is not finite")
        return bits, np.full(len(bits), options.times)

    if not fill(shards, count, batch, "window", lambda bits, _: f"{np.mean(bits):.4f} bits/character"):
        return None
    shards.union(folder / f"text_bits_{options.split}.npz", count)
    return np.asarray(mapped(folder / f"text_bits_{options.split}.npz"))[:, 0]


def text_of(found: dict) -> str:
    """Lines for the report."""
    names = {"1": "unigram", "2": "bigram", "3": "trigram"}
    grams = ", ".join(f"{names[n]} {one['mean']:.3f}" for n, one in found["ngrams"].items())
    lines = [
        f"{found['bits']['mean']:.3f} ± {found['bits']['error']:.3f} bits per character (a bound): {found['count']} "
        f"{found['split']} windows of {found['length']}. Of n-grams of the training text: {grams}."
    ]
    if "samples" in found:
        one, trigram = found["samples"], found["ngrams"]["3"]["mean"]
        lines.append(
            f"{one['count']} samples: {one['trigram_bits']['mean']:.3f} bits per character by the trigram "
            f"({found['split']} text {trigram:.3f}); entropy of their characters {one['entropy']:.3f} "
            f"({found['split']} text {one['entropy_of_text']:.3f})."
        )
    return "\n\n".join(lines) + "\n"

"""English text, character by character: masked diffusion, or uniform diffusion, or bits under an SDE.

    python main.py --config=configs/text.py --workdir=runs/text
    python main.py --mode=sample --workdir=runs/text --num_samples=20
    python main.py --mode=eval --workdir=runs/text
    python main.py --mode=restore --workdir=runs/text --task=infill --text="The [____] statement"

The text is that of every Python (`data_lib.reference_text`), or one of your own by --data=FILE. configs/text.py is
masked; configs/text.py:uniform and configs/text.py:bits are the others. docs/text.md compares them.

The 2,000 steps of the masked one take about 16 minutes on two cores: 2.81 ± 0.04 bits per character, on 288 test
windows (jax 0.10.2, CPU). The reference text of Python 3.11 has 4.64, 3.44 and 2.53 by unigram, bigram and trigram.
"""

import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import ConfigError, bind, spec
from configs.base import base
from configs.starting import Choice
from data_lib import Bits, Characters, from_characters, text_alphabet
from data_lib.sequences import bits_of
from models import DiT, TokenTransformer
from sde_lib import EDM, LogSNRGrid, LogSNRTime, Sampler, adam, as_is, dsm_loss, mean
from sde_lib.discrete import (
    AnalogBits,
    AncestralTokens,
    AnyOrder,
    EulerTokens,
    MaskedDiffusion,
    MaskedProcess,
    PredictTokens,
    ScoreEntropy,
    TokenModel,
    TokenSampler,
    UniformProcess,
    cosine_times,
)
from sde_lib.solvers import DPMSolverPlusPlus

LENGTH = 128
KINDS = ("masked", "uniform", "bits")


def get_config(kind: str = "masked") -> ConfigDict:
    """The config of a kind. ConfigError for an unknown one."""
    if kind not in KINDS:
        raise ConfigError(f"configs/text.py:{kind}: expected one of {', '.join(KINDS)}")
    alphabet = text_alphabet()
    config = base()
    config.data = spec(from_characters, length=LENGTH, stride=LENGTH // 4, bits=kind == "bits")
    config.from_data = bind(text_choices)
    config.optimizer = spec(adam, learning_rate=3e-3, warmup_steps=200, decay_steps=0, b2=0.99)
    config.training.update(batch_size=32, num_steps=2000, ema=0.995, log_every=50, eval_every=500)
    config.training.update(sample_every=500, snapshot_size=8, checkpoint_every=500, keep_every=0)
    config.optimizer.decay_steps = config.training.get_oneway_ref("num_steps")
    config.sampling.batch_size = 20
    config.eval.text = ConfigDict()  # bits per character: run_modes/text_bits.py
    config.eval.text.split = "test"  # or "train"; "": none
    config.eval.text.count = 0  # windows; 0: all
    config.eval.text.times = 32  # evaluations of the network per window, an even number
    config.eval.text.samples = 32  # texts that are judged by a trigram model; 0: none
    config.eval.text.lock()
    (bits if kind == "bits" else tokens)(config, kind, alphabet)
    return config


def tokens(config: ConfigDict, kind: str, alphabet: str) -> None:
    """The sections of a process on tokens."""
    config.shape = (LENGTH,)
    config.transform = spec(Characters, alphabet=alphabet)
    config.model = bind(TokenModel)
    config.parameterization = spec(PredictTokens)
    masked = kind == "masked"
    config.sde = spec(MaskedProcess if masked else UniformProcess, num_tokens=len(alphabet))
    config.objective = bind(MaskedDiffusion if masked else ScoreEntropy)
    states, outputs = len(alphabet) + masked, len(alphabet)
    config.network = spec(
        TokenTransformer, num_states=states, num_outputs=outputs, features=128, depth=4, heads=4, time=not masked
    )
    for name in ("fast", "pc", "ode", "published", "paper"):  # those of SDEs
        del config.sampling[name]
    config.sampling.ancestral = spec(TokenSampler, solver=AncestralTokens(), num_steps=64, grid=cosine_times)
    config.sampling.euler = spec(TokenSampler, solver=EulerTokens(), num_steps=128)
    config.sampling.use = "ancestral"
    if masked:
        config.sampling.any_order = spec(TokenSampler, solver=AnyOrder(), num_steps=LENGTH)
        config.sampling.use = "any_order"


def bits(config: ConfigDict, kind: str, alphabet: str) -> None:
    """The sections of bits under an SDE."""
    config.shape = (LENGTH, bits_of(alphabet))
    config.transform = spec(Bits, alphabet=alphabet)
    config.sde = spec(EDM, t_min=0.15, t_max=40.0)
    config.parameterization = spec(AnalogBits)
    config.network = spec(DiT, features=128, depth=4, heads=4, patch=1)
    config.loss = bind(dsm_loss, reduce=mean)  # at uniform λ, which bounds −log P
    config.time_distribution = spec(LogSNRTime)
    solver = DPMSolverPlusPlus(order=2, tau=1.0)
    config.sampling.sde = spec(Sampler, solver=solver, grid=LogSNRGrid(), num_steps=64, denoise=as_is)
    config.sampling.use = "sde"


def text_choices(config: ConfigDict, x: np.ndarray, about: dict) -> list[Choice]:
    """The numbers of tokens of the process and the network, by the alphabet of the data."""
    count = len(config.transform.alphabet)
    if config.data.bits:
        return [Choice("shape", f"{config.shape[1]} bits for {count} characters")]
    masked = "MaskedProcess" in config.sde.call
    return [
        Choice("sde.num_tokens", "the characters of the text", count),
        Choice("network.num_states", "those, and the mask" if masked else "those", count + masked),
        Choice("network.num_outputs", "the characters of the text", count),
    ]

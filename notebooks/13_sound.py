# %% tags=["install"]
SOURCE = ".."  # the project's folder, or the address of its git repository

import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("run_lib") is None:
    folder = SOURCE if os.path.isdir(SOURCE) else "score-sde-jax"
    if not os.path.isdir(folder):
        subprocess.run(["git", "clone", "--depth=1", SOURCE, folder], check=True)
    pins = "constraints-newest.txt" if sys.version_info >= (3, 12) else "constraints.txt"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", folder, "-c", f"{folder}/{pins}"], check=True)
# %% [markdown]
# # 13 · Sound: strings that are trained, measured, and repaired
#
# **At the end** you have a model of plucked strings that is conditioned on their pitch. You have heard its samples,
# measured their pitch, and filled a gap of 50 ms in a sound. It takes two minutes on two cores.

# %% tags=["parameters"]
num_steps = 600
num_sounds = 96
answers_each = 4

# %% [markdown]
# ## Data with a truth
#
# `strings` makes plucked strings: sums of damped harmonics, whose pitch is one of 24 semitones, with random decay,
# brightness and loudness. The pitch is the label. All are functions of (seed, number).

# %%
import jax
import numpy as np
from IPython.display import Audio, Image, display

import run_lib
from configs.strings import RATE, get_config
from data_lib import gather, strings
from eval_lib import LogMelFeatures, frechet_distance, moments, pitch_report, si_sdr
from io_lib.sounds import in_sequence, save_picture

test = gather(strings(test=num_sounds).test, np.arange(num_sounds))
real, labels = test["x"][..., 0], test["label"]
save_picture("real.png", real[:3], RATE, tuple(f"{110 * 2 ** (k / 12):.0f} Hz" for k in labels[:3]))
display(Image("real.png"))
Audio(in_sequence(real[:3], RATE), rate=RATE)

# %% [markdown]
# Above is the waveform, below the log-mel spectrogram. Each string has its harmonics, of which the higher ones decay
# faster.
#
# ## Training
#
# `configs/strings.py` has a network that corrects the Wiener filter of each pitch; its docstring explains it. A short
# training shows that it works.

# %%
config = get_config()
config.data.update(count=4000, test=200)
config.training.update(num_steps=num_steps, checkpoint_every=num_steps, eval_every=num_steps, log_every=100)
run_lib.train(config, f"runs/strings_{num_steps}")
model = run_lib.load(f"runs/strings_{num_steps}")
drawn = model.sample(jax.random.key(0), num_sounds, np.arange(num_sounds) % 24)

# %% [markdown]
# Sample $i$ has the pitch $i \bmod 24$. These are A2, C#3, F3 and A3.

# %%
save_picture("drawn.png", drawn[:12:4, :, 0], RATE, ("sample of 110 Hz", "139 Hz", "175 Hz"))
display(Image("drawn.png"))
Audio(in_sequence(drawn[:16:4, :, 0], RATE), rate=RATE)

# %% [markdown]
# ## How good are they?
#
# The pitch is found by autocorrelation, and is right if it is within half a semitone of the class. The Fréchet distance
# compares mean and deviation of log-mel levels. Its floor is the distance between two sets of real sounds.

# %%
report = pitch_report(drawn, real[:2, :, None], real[..., None], labels[:2], labels)
print(report["text"])
features = LogMelFeatures(rate=RATE, bands=16)  # few, for few sounds
reference = moments(features(gather(strings().train, np.arange(num_sounds))["x"]))
distance, floor = (frechet_distance(*moments(features(x)), *reference) for x in (drawn, real[..., None]))
pitch_right = report["right"]["samples"]
print(f"pitch right: {pitch_right:.1%}; Fréchet distance {distance:.1f}, floor {floor:.1f}")

# %% [markdown]
# ## A gap of 50 ms
#
# The prior is conditioned on what is known of a sound, without another training. The gap is from 150 to 200 ms.

# %%
from sde_lib.posterior import MMPS, Mask, Observation

known = np.ones((real.shape[1], 1), np.float32)
known[1200:1600] = 0
rows = np.repeat(real[:4, :, None] * known, answers_each, axis=0)
observation = Observation(y=rows, operator=Mask(mask=known), noise_std=1e-3)
repaired = model.given(observation, MMPS(iterations=3)).sample(
    jax.random.key(1), len(rows), np.repeat(labels[:4], answers_each)
)
answers = repaired.reshape(4, answers_each, -1).mean(axis=1)
in_gap = [si_sdr(a[1200:1600], b[1200:1600]) for a, b in zip(answers, real[:4])]
print("SI-SDR in the gap, in dB:", np.round(in_gap, 1))
save_picture("repaired.png", np.stack([real[0], rows[0, :, 0], answers[0]]), RATE, ("truth", "damaged", "repaired"))
display(Image("repaired.png"))
Audio(in_sequence(np.stack([rows[0, :, 0], answers[0]]), RATE), rate=RATE)

# %% [markdown]
# [docs/sound.md](../docs/sound.md) has recordings of your own, spectrograms as a representation, the figures of a full
# training, and speech enhancement as a process of your own.

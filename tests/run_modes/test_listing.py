"""--mode=list names every mode with its flags, and every shipped experiment."""

from config_lib.command_line import shipped_names
from run_modes.command_line import MODES
from run_modes.listing import listing


def test_all_modes_and_experiments_are_listed():
    lines = []
    listing(((name, mode.summary, mode.flags) for name, mode in MODES.items()), lines.append)
    text = " ".join(" ".join(lines).split())
    for name, mode in MODES.items():
        assert f"{name} {mode.summary}" in text and all(f"--{flag}" in text for flag in mode.flags)
    assert {"digits", "cifar10", "score_sde", "photos", "signals"} <= set(shipped_names())
    for name in shipped_names():
        assert f" {name} " in text
    assert "digits Handwritten digits, 8×8, with VP and a small DDPM++: trains and draws samples in minutes." in text
    assert max(map(len, "\n".join(lines).splitlines())) <= 100

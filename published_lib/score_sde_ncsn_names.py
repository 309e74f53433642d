"""NCSNv2's parameter names in torch files (Song & Ermon 2020, their code; Song et al. 2021) as paths of our leaves.

begin_conv, normalizer, end_conv     Conv_0, InstanceNormPlus_0, Conv_1
resR.i                               DilatedBlock_(2 r + i), r the index of R among the labels of RESIDUAL in the file
  conv1, conv2, shortcut               Conv_0, Conv_1, Conv_2
  conv2.conv, shortcut.conv            ConvMeanPool_0/Conv_0, ConvMeanPool_1/Conv_0, where it halves
  normalize1, normalize2               InstanceNormPlus_0, InstanceNormPlus_1
refineR                              RefineBlock_r, r the same for REFINE, which starts at the lowest level
  adapt_convs.i.u_s_conv               RCUBlock_i/Conv_(2 (u − 1) + s − 1)
  output_convs.u_s_conv                RCUBlock_n/Conv_…, n the number of inputs
  crp.convs.i, msf.convs.i             CRPBlock_0/Conv_i, MSFBlock_0/Conv_i
"""

import re

RESIDUAL = ("1", "2", "3", "31", "4", "5")
REFINE = ("1", "2", "31", "3", "4", "5")

_TOP = {"begin_conv": "Conv_0", "normalizer": "InstanceNormPlus_0", "end_conv": "Conv_1"}
_RESIDUAL_PARTS = {
    "conv1": ("Conv_0",),
    "conv2": ("Conv_1",),
    "shortcut": ("Conv_2",),
    "conv2.conv": ("ConvMeanPool_0", "Conv_0"),
    "shortcut.conv": ("ConvMeanPool_1", "Conv_0"),
    "normalize1": ("InstanceNormPlus_0",),
    "normalize2": ("InstanceNormPlus_1",),
}


def ncsn_path(name: str, names: frozenset[str]) -> list[str] | None:
    """Our path for one of the `names` of a torch file, with its last part unchanged; None for an unknown name."""
    *parts, leaf = name.removeprefix("module.").split(".")
    inside = _inside(".".join(parts), {each.removeprefix("module.").split(".")[0] for each in names})
    return None if inside is None else [*inside, leaf]


def _inside(place: str, modules: set[str]) -> tuple[str, ...] | None:
    if place in _TOP:
        return (_TOP[place],)
    if match := re.fullmatch(r"res(\d+)\.([01])\.(.+)", place):
        number, part = _number("res", match[1], RESIDUAL, modules), _RESIDUAL_PARTS.get(match[3])
        return None if number is None or part is None else (f"DilatedBlock_{2 * number + int(match[2])}", *part)
    if match := re.fullmatch(r"refine(\d+)\.(.+)", place):
        number = _number("refine", match[1], REFINE, modules)
        part = _refine_part(match[2], inputs=1 if number == 0 else 2)
        return None if number is None or part is None else (f"RefineBlock_{number}", *part)
    return None


def _number(kind: str, label: str, order: tuple[str, ...], modules: set[str]) -> int | None:
    """The index of a label among those in the file; None for an unknown one."""
    present = [each for each in order if kind + each in modules]
    return present.index(label) if label in present else None


def _refine_part(part: str, inputs: int) -> tuple[str, ...] | None:
    if match := re.fullmatch(r"(adapt_convs\.(\d)|output_convs)\.(\d)_(\d)_conv", part):
        unit = match[2] if match[2] is not None else inputs
        return f"RCUBlock_{unit}", f"Conv_{2 * (int(match[3]) - 1) + int(match[4]) - 1}"
    if match := re.fullmatch(r"(crp|msf)\.convs\.(\d)", part):
        return f"{match[1].upper()}Block_0", f"Conv_{match[2]}"
    return None

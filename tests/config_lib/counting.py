"""The number of parameters of the published U-Nets by arithmetic, from their description alone.

Song et al. 2021, appendix H, and the structure of their published networks, module by module: what is counted here is
not what builds them, and the leaves of those that build are compared with published files elsewhere
(tests/published_lib/test_names.py, tests/test_parity_ddpm.py). Biases everywhere; a norm has two numbers a channel.
"""

DEFAULTS = dict(
    nf=128, mults=(1, 2, 2, 2), blocks=4, attention=(16,), size=32, channels=3, biggan=True, fourier=False,
    pyramid_in=None, pyramid_out=False, conditional=True,
)  # fmt: skip


def conv(inputs, outputs, size=3):
    return size * size * inputs * outputs + outputs


def norm(channels):
    return 2 * channels


def attention(channels):
    return norm(channels) + 4 * conv(channels, channels, 1)


def residual(inputs, outputs, embedded, resampled=False):
    shift = conv(embedded, outputs, 1) if embedded else 0
    shortcut = conv(inputs, outputs, 1) if inputs != outputs or resampled else 0
    return norm(inputs) + conv(inputs, outputs) + shift + norm(outputs) + conv(outputs, outputs) + shortcut


def unet(**options):
    """The number of numbers in a network of these options."""
    o = DEFAULTS | options
    nf, mults, biggan = o["nf"], o["mults"], o["biggan"]
    features = 2 * nf if o["fourier"] else nf
    embedded = 4 * nf if o["conditional"] else 0
    total = nf if o["fourier"] else 0  # the frequencies
    total += conv(features, embedded, 1) + conv(embedded, embedded, 1) if embedded else 0
    total += conv(o["channels"], nf)

    here, size, kept, pyramid = nf, o["size"], [nf], o["channels"]
    for level, mult in enumerate(mults):
        for _ in range(o["blocks"]):
            total += residual(here, nf * mult, embedded)
            here = nf * mult
            total += attention(here) if size in o["attention"] else 0
            kept.append(here)
        if level < len(mults) - 1:
            total += residual(here, here, embedded, resampled=True) if biggan else conv(here, here)
            total += conv(pyramid, here) if o["pyramid_in"] == "residual" else 0
            total += conv(pyramid, here, 1) if o["pyramid_in"] == "skip" else 0
            pyramid = here if o["pyramid_in"] == "residual" else pyramid
            kept.append(here)
            size //= 2

    total += 2 * residual(here, here, embedded) + attention(here)
    head = lambda channels: norm(channels) + conv(channels, o["channels"])  # noqa: E731
    for level, mult in reversed(list(enumerate(mults))):
        for _ in range(o["blocks"] + 1):
            total += residual(here + kept.pop(), nf * mult, embedded)
            here = nf * mult
        total += attention(here) if size in o["attention"] else 0
        total += head(here) if o["pyramid_out"] else 0
        if level:
            total += residual(here, here, embedded, resampled=True) if biggan else conv(here, here)
            size *= 2
    assert not kept
    return total if o["pyramid_out"] else total + head(here)

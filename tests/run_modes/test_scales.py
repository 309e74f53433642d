"""The warning before training about data unlike what the config assumes: its numbers, its remedy, no false alarm."""

import logging
import re

import numpy as np
import pytest

import data_lib
import run_lib
from config_lib.spec import build, spec
from configs import cifar10, digits, digits_subvp, digits_ve, points
from configs.own_data import with_data
from data_lib import Dataset, Identity, Scale, Standardize, from_arrays
from run_modes.data import expected_deviation, load_data, remark_on_scales
from run_modes.devices import make_devices
from sde_lib import EDM, VE, VP, DiagonalVP, EDMPreconditioning, OrnsteinUhlenbeck, PredictNoise
from tests.contracts import DoubleWell

pytestmark = pytest.mark.usefixtures("usual_promotion")

DEVIATIONS = np.asarray([1e-3, 0.1, 1.0, 30.0, 1e3])


def table(n=2000, mean=0.0, deviations=DEVIATIONS):
    return np.random.default_rng(0).normal(mean, deviations, (n, len(deviations))).astype(np.float32)


def number(after, line):
    return float(re.search(after + r" (\S+?)[;,]", line)[1])


def suggested(line):
    """The transform's section that the line says to write."""
    written = line.partition("config.transform = ")[2].partition(", or --data")[0]
    return eval(written, vars(data_lib) | {"spec": spec})


def config_of(shape, transform=None, sde=None, parameterization=None):
    config = points.get_config()
    config.shape = shape
    for name, section in {"transform": transform, "sde": sde, "parameterization": parameterization}.items():
        if section is not None:
            config[name] = section
    return config


def test_a_table_of_unlike_columns_is_reported_with_the_line_that_standardizes(caplog):
    """One warning of training, before anything is compiled; with the line in place there is none, and all is 1."""
    x, config = table(), config_of((5,))
    with caplog.at_level(logging.WARNING):
        load_data(config, make_devices(), from_arrays(x), training=True)
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.search(r"the deviations of columns go from 0\.00\d+ to 1\.0\de\+03, their deviation is 4", line)
    assert "; the config assumes a deviation of 0.7. Write config.transform = spec(Standardize, mean=(" in line
    section = eval(
        line.partition("config.transform = ")[2].partition(", or --data")[0], vars(data_lib) | {"spec": spec}
    )
    std = build(section).forward(from_arrays(x).train.x).std(0)
    np.testing.assert_allclose(std, 1, atol=2e-3)
    assert remark_on_scales(config_of((5,), section), from_arrays(x)) == ""
    caplog.clear()
    load_data(config, make_devices(), from_arrays(x))
    assert not caplog.records  # evaluation and sampling have nothing to choose


def test_deviation_and_mean_of_all_values():
    wide, far = table(deviations=np.full(2, 7.0)), table(mean=40.0, deviations=np.ones(2))
    found = number("their deviation is", remark_on_scales(config_of((2,)), from_arrays(wide)))
    assert abs(found - 7) < 4 * 7 / np.sqrt(2 * 1000)  # four standard errors, of 500 rows
    line = remark_on_scales(config_of((2,)), from_arrays(far))
    assert abs(number("their mean is", line) - 40) < 4 / np.sqrt(500) and "their deviation" not in line
    for factor, reported in ((0.25, False), (4.8, False), (0.15, True), (5.5, True)):
        x = table(deviations=np.full(2, 0.7 * factor))
        assert bool(remark_on_scales(config_of((2,)), from_arrays(x))) is reported, factor


def test_times_of_our_century_are_standardized_to_a_thousandth_of_their_deviation():
    x = np.random.default_rng(0).normal(1.7e9, 60.0, (500, 1))
    line = remark_on_scales(config_of((1,)), from_arrays(x))
    section = eval(
        line.partition("config.transform = ")[2].partition(", or --data")[0], vars(data_lib) | {"spec": spec}
    )
    z = build(section).forward(from_arrays(x).train.x)
    assert abs(z.mean()) < 2e-3 and abs(z.std() - 1) < 2e-3


def test_pixels_without_their_scale_get_it():
    x = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3)).astype(np.uint8)
    config = config_of((8, 8, 3), spec(Identity))
    assert "config.transform = spec(Scale, low=0.0, high=255.0)" in remark_on_scales(config, from_arrays(x))
    assert remark_on_scales(config_of((8, 8, 3), spec(Scale)), from_arrays(x)) == ""
    dark = (x // 64).astype(np.uint8)  # black pictures: the transform is right, sigma_data is not
    assert "config.parameterization.sigma_data = 0.0088" in remark_on_scales(
        config_of((8, 8, 3), spec(Scale)), from_arrays(dark)
    )
    config = config_of((8, 8, 3), spec(Scale), parameterization=spec(PredictNoise))
    assert remark_on_scales(config, from_arrays(dark)) == ""


def test_what_is_assumed():
    """sigma_data, else the prior's deviation where the data shrink away, else 1; per column for a prior per column."""
    edm, noise = spec(EDMPreconditioning, sigma_data=0.5), spec(PredictNoise)
    scales = (0.001, 0.1, 1.0, 30.0, 1000.0)
    for sde, parameterization, expected in (
        (spec(VP), edm, 0.5),
        (spec(VP), noise, 1.0),
        (spec(VE), noise, 1.0),
        (spec(EDM), edm, 0.5),
        (spec(OrnsteinUhlenbeck, rate=0.5, noise=10.0), noise, 10.0),
        (spec(DiagonalVP, scales=scales), noise, scales),
    ):
        np.testing.assert_allclose(
            expected_deviation(config_of((5,), None, sde, parameterization)), expected, rtol=1e-6
        )
    fitting = config_of((5,), None, spec(DiagonalVP, scales=scales), noise)
    assert remark_on_scales(fitting, from_arrays(table())) == ""
    other = fitting.copy_and_resolve_references()
    other.sde.scales = scales[::-1]
    assert "the deviations of columns" in remark_on_scales(other, from_arrays(table()))
    assert expected_deviation(config_of((5,), None, spec(DoubleWell), noise)) is None


@pytest.mark.parametrize("experiment", [digits, digits_ve, digits_subvp])
def test_no_false_alarm_for_digits(experiment):
    config = experiment.get_config()
    assert remark_on_scales(config, build(config.data)) == ""


def test_no_false_alarm_for_other_shipped_configs(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("moons", "swirl", "checkerboard", "gaussians"):
        config = with_data(points.get_config(), name)
        assert remark_on_scales(config, build(config.data)) == "", name
    photographs = generator.normal(120, 60, (40, 32, 32, 3)).clip(0, 255).astype(np.uint8)
    assert remark_on_scales(cifar10.get_config(), from_arrays(photographs)) == ""
    np.savez(tmp_path / "table.npz", x=table())
    config = with_data(config_of((2,)), str(tmp_path / "table.npz"))
    assert isinstance(build(config.transform), Standardize) and remark_on_scales(config, build(config.data)) == ""


def test_a_constant_column_is_no_alarm():
    x = table(deviations=np.asarray([1.0, 0.0, 1.0]))
    assert remark_on_scales(config_of((3,)), from_arrays(x)) == ""


def test_the_report_of_the_data_has_the_line(capsys):
    run_lib.describe_data(config_of((5,)), dataset=from_arrays(table()))
    assert "scales   in model space the deviations of columns go from" in capsys.readouterr().out


def test_a_source_read_by_index_is_looked_at_in_part():
    """500 examples of a million, evenly spaced."""

    class Rows:
        def __init__(self):
            self.read = []

        def __len__(self):
            return 10**6

        def __getitem__(self, i):
            self.read.append(i)
            return {"x": np.float32([np.sin(i) * 100, np.cos(i)])}

    source = Rows()
    found = remark_on_scales(config_of((2,)), Dataset(source, source))
    assert "go from 0.7" in found and len(set(source.read)) == 500 and max(source.read) == 10**6 - 1

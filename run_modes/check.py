"""--mode=check: is the config's SDE consistent; --mode=suggest: SDE parameters that fit the data."""

import numpy as np
from ml_collections import ConfigDict

from config_lib.spec import build
from data_lib import Dataset, gather
from run_modes.data import build_transform, load_data
from run_modes.devices import make_devices
from run_modes.paths import require_config
from sde_lib import check_sde
from sde_lib import suggest as suggest_parameters
from sde_lib.check import Report
from sde_lib.check.suggest import Suggestion


def check(config: ConfigDict) -> Report:
    """Prints whether the methods of the config's SDE are consistent, for config.shape and data of unit variance.

    SDECheckError, naming the wrong method, if they are not.
    """
    require_config(config)
    return check_sde(build(config.sde, "config.sde"), shape=tuple(config.shape))


def suggest(config: ConfigDict, dataset: Dataset | None = None, count: int = 10_000) -> Suggestion:
    """SDE parameters suggested by the first `count` training examples, in model space (`sde_lib.suggest`).

    Returns a `Suggestion`, which prints as a table. ConfigError for a config or data that cannot be used.
    """
    require_config(config)
    dataset = load_data(config, make_devices()) if dataset is None else dataset
    x = gather(dataset.train, np.arange(min(count, len(dataset.train))))["x"]
    sde = build(config.sde, "config.sde")
    transform = build_transform(config)
    return suggest_parameters(transform.forward(x), sde=sde if hasattr(sde, "alpha") else None)

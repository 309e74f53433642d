"""How good samples are: features of data, distances between sets of them, calibration, and reports."""

from eval_lib.calibration import IntervalCoverage as IntervalCoverage
from eval_lib.calibration import interval_coverage as interval_coverage
from eval_lib.expected import Expected as Expected
from eval_lib.extrapolate import frechet_infinity as frechet_infinity
from eval_lib.features import ClassifierFeatures as ClassifierFeatures
from eval_lib.features import DINOv2Features as DINOv2Features
from eval_lib.features import InceptionFeatures as InceptionFeatures
from eval_lib.features import RawFeatures as RawFeatures
from eval_lib.frechet import frechet_distance as frechet_distance
from eval_lib.frechet import moments as moments
from eval_lib.inception_score import inception_score as inception_score
from eval_lib.kernel import kernel_distance as kernel_distance
from eval_lib.kernel import squared_mmd as squared_mmd
from eval_lib.metrics import c2st as c2st
from eval_lib.metrics import classifier_score as classifier_score
from eval_lib.metrics import coverage as coverage
from eval_lib.metrics import energy as energy
from eval_lib.metrics import feature_frechet as feature_frechet
from eval_lib.metrics import fid as fid
from eval_lib.metrics import fid_infinity as fid_infinity
from eval_lib.metrics import fidelity as fidelity
from eval_lib.metrics import kid as kid
from eval_lib.metrics import marginals as marginals
from eval_lib.metrics import sliced_wasserstein as sliced_wasserstein
from eval_lib.neighbors import density_coverage as density_coverage
from eval_lib.neighbors import precision_recall as precision_recall
from eval_lib.network import Features as Features
from eval_lib.network import NetworkFeatures as NetworkFeatures
from eval_lib.pyramid import PyramidFeatures as PyramidFeatures
from eval_lib.report import markdown as markdown
from eval_lib.report import small_image_report as small_image_report
from eval_lib.requires import requires as requires
from eval_lib.requires import with_floor as with_floor
from eval_lib.sounds import LogMelFeatures as LogMelFeatures
from eval_lib.sounds import log_magnitude_distance as log_magnitude_distance
from eval_lib.sounds import pitch as pitch
from eval_lib.sounds import pitch_report as pitch_report
from eval_lib.sounds import si_sdr as si_sdr
from eval_lib.sounds import spectral_convergence as spectral_convergence
from eval_lib.statistics import Moments as Moments
from eval_lib.statistics import Statistics as Statistics
from eval_lib.statistics import require_comparable as require_comparable
from eval_lib.statistics import statistics_of as statistics_of
from eval_lib.two_sample import classifier_two_sample_test as classifier_two_sample_test
from eval_lib.two_sample import coordinate_moments as coordinate_moments
from eval_lib.two_sample import energy_distance as energy_distance
from eval_lib.two_sample import ks_statistics as ks_statistics
from eval_lib.two_sample import sliced_wasserstein_distance as sliced_wasserstein_distance
from eval_lib.two_sample import squared_wasserstein as squared_wasserstein

# The name of `Features` in version 0.1, still importable.
Seen = Features

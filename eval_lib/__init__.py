"""How good are samples: distances between sets of images."""

from eval_lib.frechet import frechet_distance as frechet_distance
from eval_lib.frechet import moments as moments
from eval_lib.report import markdown as markdown
from eval_lib.report import small_image_report as small_image_report

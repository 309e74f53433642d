"""Training on one's own data: a source of examples, a transform into model space, an order of batches."""

from data_lib.arrays import from_arrays as from_arrays
from data_lib.arrays import from_npz as from_npz
from data_lib.batches import Batches as Batches
from data_lib.batches import eval_batches as eval_batches
from data_lib.batches import prefetch as prefetch
from data_lib.digits import digits as digits
from data_lib.images import from_folder as from_folder
from data_lib.images import read_image as read_image
from data_lib.sources import ArraySource as ArraySource
from data_lib.sources import Dataset as Dataset
from data_lib.sources import Source as Source
from data_lib.sources import gather as gather
from data_lib.tfds_source import tfds_dataset as tfds_dataset
from data_lib.transform import Identity as Identity
from data_lib.transform import Scale as Scale
from data_lib.transform import Standardize as Standardize
from data_lib.transform import Transform as Transform

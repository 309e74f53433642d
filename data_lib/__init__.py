"""Data: a source of examples, a transform into model space, an order of batches. See `sources`, `transform`, `batches`.

A new kind of data is a function that returns a `Dataset` of two sources; anything with `__len__` and `__getitem__` is a
source. Export it here, so that a config can name it; nothing else registers it.
"""

from data_lib.archives import from_cifar as from_cifar
from data_lib.archives import from_idx as from_idx
from data_lib.archives import from_svhn as from_svhn
from data_lib.arrays import from_arrays as from_arrays
from data_lib.arrays import from_npz as from_npz
from data_lib.autoregression import AR2 as AR2
from data_lib.autoregression import autoregression as autoregression
from data_lib.autoregression import resonance as resonance
from data_lib.batches import Batches as Batches
from data_lib.batches import StallTimer as StallTimer
from data_lib.batches import as_grain as as_grain
from data_lib.batches import eval_batches as eval_batches
from data_lib.batches import prefetch as prefetch
from data_lib.conditions import Condition as Condition
from data_lib.conditions import Conditions as Conditions
from data_lib.describe import Description as Description
from data_lib.describe import describe as describe
from data_lib.describe import scale_remark as scale_remark
from data_lib.describe import shared_examples as shared_examples
from data_lib.digits import digits as digits
from data_lib.forms import Form as Form
from data_lib.forms import Sounds as Sounds
from data_lib.forms import form_of as form_of
from data_lib.images import from_folder as from_folder
from data_lib.images import read_exact as read_exact
from data_lib.images import read_image as read_image
from data_lib.layout import remarks as remarks
from data_lib.phantoms import Phantoms as Phantoms
from data_lib.phantoms import phantoms as phantoms
from data_lib.recordings import from_audio as from_audio
from data_lib.sequences import alphabet_of as alphabet_of
from data_lib.sequences import from_text as from_text
from data_lib.sequences import text_of as text_of
from data_lib.sources import ArraySource as ArraySource
from data_lib.sources import Dataset as Dataset
from data_lib.sources import Source as Source
from data_lib.sources import gather as gather
from data_lib.spectrogram import ComplexSTFT as ComplexSTFT
from data_lib.splits import split as split
from data_lib.strings import Strings as Strings
from data_lib.strings import strings as strings
from data_lib.tables import from_csv as from_csv
from data_lib.texts import Characters as Characters
from data_lib.texts import from_characters as from_characters
from data_lib.texts import reference_text as reference_text
from data_lib.texts import text_alphabet as text_alphabet
from data_lib.tfds_source import tfds_dataset as tfds_dataset
from data_lib.tfrecord import from_tfrecord as from_tfrecord
from data_lib.toys import checkerboard as checkerboard
from data_lib.toys import gaussians as gaussians
from data_lib.toys import moons as moons
from data_lib.toys import swirl as swirl
from data_lib.transform import Bits as Bits
from data_lib.transform import Identity as Identity
from data_lib.transform import Scale as Scale
from data_lib.transform import Standardize as Standardize
from data_lib.transform import Transform as Transform
from data_lib.transform import UnitScale as UnitScale
from data_lib.transform import Waveform as Waveform
from data_lib.transform import infer_transform as infer_transform

# Names of version 0.1, still importable.
Waits = StallTimer
fitting = infer_transform

# The sections and values of a ConfigDict exist only at run time: to a type checker they are Any.
from ml_collections import config_dict as config_dict
from ml_collections.config_dict import ConfigDict as ConfigDict

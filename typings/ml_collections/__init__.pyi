# A ConfigDict's sections and values are known at run time alone: to a type checker they are Any.
from ml_collections import config_dict as config_dict
from ml_collections.config_dict import ConfigDict as ConfigDict

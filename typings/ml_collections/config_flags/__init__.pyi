from ml_collections.config_flags import config_flags as config_flags
from ml_collections.config_flags import config_path as config_path

"""The names of `config_lib.spec`, still importable from their module of version 0.1."""

from config_lib.spec import ConfigError as ConfigError
from config_lib.spec import bind as bind
from config_lib.spec import build as build
from config_lib.spec import diff as diff
from config_lib.spec import from_json as from_json
from config_lib.spec import nearest_key_message as nearest_key_message
from config_lib.spec import spec as spec
from config_lib.spec import to_json as to_json

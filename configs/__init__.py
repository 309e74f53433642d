"""Experiments, one file each, and what turns a config into objects (spec) and flags into a config (command_line)."""

from configs.spec import ConfigError as ConfigError
from configs.spec import bind as bind
from configs.spec import build as build
from configs.spec import diff as diff
from configs.spec import from_json as from_json
from configs.spec import spec as spec
from configs.spec import to_json as to_json

"""Config by construction: a section holds a target and its arguments, and `build` calls the target with them.

    config.sde = spec(VP, beta_max=20.0)   # {"call": "sde_lib:VP", "beta_min": 0.1, "beta_max": 20.0, ...}
    sde = build(config.sde)                # VP(beta_min=0.1, beta_max=20.0, ...)

The section is a plain `ml_collections.ConfigDict` that includes every default, so a flag such as
`--config.sde.beta_max=15` reaches any depth. Nothing here imports JAX.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from config_lib.names import ConfigError as ConfigError
from config_lib.names import name_of, nearest, resolve, trusted
from config_lib.saved import diff as diff
from config_lib.saved import differing as differing
from config_lib.saved import from_json as from_json
from config_lib.saved import nearest_key_message as nearest_key_message
from config_lib.saved import to_json as to_json
from config_lib.types import accepted, as_config_value, coerce

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_KINDS = ("call", "bind")


class Config(ConfigDict):
    """A ConfigDict that refuses an object in the place of its section: `config.sde = VP()`.

    ConfigError of one line, with the section to write. A section of another kind may replace one.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        if callable(value) or dataclasses.is_dataclass(value):
            raise ConfigError(f"{key}: a config holds sections, not objects: write {key} = {_written(value)}")
        if isinstance(value, ConfigDict) and isinstance(self._fields.get(key), ConfigDict):
            self._fields[key] = value  # ConfigDict itself requires the same class
        else:
            super().__setitem__(key, value)


def _written(value: Any) -> str:
    """What to write in a config for a class, a function or an instance."""
    if inspect.isfunction(value):
        return f"bind({value.__name__})"
    if isinstance(value, type):
        return f"spec({value.__name__})"
    given = _fields_to_write(value) if dataclasses.is_dataclass(value) else {}
    return f"spec({', '.join([type(value).__name__, *(f'{name}={v!r}' for name, v in given.items())])})"


def spec(target: Callable, **kwargs) -> ConfigDict:
    """A section that `build` turns into target(**kwargs); it also holds each default that JSON can hold.

    A default of None becomes a placeholder of the annotated type. Dataclass instances, in the defaults or the kwargs,
    become sections of their own. Defaults that JSON cannot hold (functions, dtypes) are left out; the call then uses
    them. ConfigError (a TypeError and a ValueError) for a value of the wrong type, and for an unknown parameter, with
    the nearest one.
    """
    return _section("call", target, kwargs)


def bind(target: Callable, **kwargs) -> ConfigDict:
    """As `spec`, but `build` returns functools.partial(target, **kwargs), for more arguments later.

    Without kwargs it returns the target itself. A function among the kwargs of a spec is stored in that form.
    """
    return _section("bind", target, kwargs)


def build(section: Any, path: str = "config") -> Any:
    """The object that a section describes, recursively; sequences become tuples.

    A section without "call" or "bind" becomes a dict, and a plain value is returned as it is. An error is a ConfigError
    that names the place in the config (`config.sde.beta_max expects float, ...`).
    """
    if isinstance(section, list | tuple):
        return tuple(build(value, f"{path}[{i}]") for i, value in enumerate(section))
    if not isinstance(section, Mapping | ConfigDict):
        return section
    values = dict(section.items())
    kinds = [kind for kind in _KINDS if kind in values]
    if not kinds:
        return {key: build(value, f"{path}.{key}") for key, value in values.items()}
    if len(kinds) > 1:
        raise ConfigError(f"{path} holds both 'call' and 'bind': expected one of them")
    return _construct(kinds[0], values, path)


def with_defaults(config: Mapping | ConfigDict) -> ConfigDict:
    """A copy in which each section has the defaults of parameters that its target has gained since it was written.

    A target that cannot be imported in this process keeps its section as it is.
    """
    config = ConfigDict({key: _with_defaults(value) for key, value in config.items()})
    kinds = [kind for kind in _KINDS if kind in config]
    if len(kinds) != 1:
        return config
    try:
        target = resolve(config[kinds[0]], "config")
        parameters = _parameters(target).items()
        added = {name: _default(p) for name, p in parameters if name not in config and p.default is not p.empty}
    except Exception:  # modules of users raise anything when they are imported
        return config
    return ConfigDict({**config, **{name: value for name, value in added.items() if value is not _LEFT_OUT}})


def _with_defaults(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_with_defaults, value))
    return with_defaults(value) if isinstance(value, Mapping | ConfigDict) else value


def _construct(kind: str, values: dict, path: str) -> Any:
    target = resolve(values.pop(kind), path)
    values = _checked(target, values, path)
    missing = [name for name, p in _parameters(target).items() if p.default is p.empty and name not in values]
    missing = [name for name in missing if _parameters(target)[name].kind not in _VARIADIC]
    if kind == "call" and missing:
        raise ConfigError(f"{path}: {target.__qualname__} needs a value for {', '.join(missing)}")
    kwargs = {name: build(value, f"{path}.{name}") for name, value in values.items()}
    if kind == "bind":
        return functools.partial(target, **kwargs) if kwargs else target
    try:
        return target(**kwargs)
    except (TypeError, ValueError) as error:
        what, name = " ".join(str(error).split()), f"{target.__qualname__}: "
        raise ConfigError(f"{path}: {name}{what.removeprefix(name)}") from error


def _section(kind: str, target: Callable, kwargs: dict) -> ConfigDict:
    name = name_of(target)
    where = target.__qualname__
    if clash := [key for key in _KINDS if key in _parameters(target)]:
        raise ConfigError(f"{where}: a parameter called {clash[0]!r} is not allowed in a config")
    kwargs = {key: _as_section(value, f"{where}.{key}") for key, value in kwargs.items()}
    kwargs = _checked(target, kwargs, where)
    defaults = {key: p for key, p in _parameters(target).items() if p.default is not p.empty and key not in kwargs}
    section = {key: _default(p) for key, p in defaults.items()}
    return Config({kind: name, **{k: v for k, v in section.items() if v is not _LEFT_OUT}, **kwargs})


_LEFT_OUT = object()


def _default(parameter: inspect.Parameter) -> Any:
    """The default as a config holds it, or _LEFT_OUT if JSON cannot hold it."""
    if inspect.isfunction(parameter.default) and not trusted(parameter.default.__module__):
        return _LEFT_OUT  # a saved config could not name it
    if parameter.default is None:
        types = accepted(parameter.annotation, None) or ()
        types = [t for t in types if t is not type(None)]
        return config_dict.placeholder(types[0] if len(types) == 1 else object)
    try:
        value = _as_section(parameter.default, parameter.name)
        return coerce(value, parameter, parameter.name)
    except ConfigError:
        return _LEFT_OUT


def _as_section(value: Any, where: str) -> Any:
    """The value as a config holds it.

    A dataclass instance or a function becomes the section that rebuilds it. An array becomes nested tuples of numbers.
    Containers are converted item by item, and other values are checked.
    """
    if hasattr(value, "tolist") and getattr(value, "ndim", 0):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_as_section(item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(value, ConfigDict):
        return value
    if isinstance(value, dict):
        return ConfigDict({key: _as_section(item, f"{where}.{key}") for key, item in value.items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return spec(type(value), **_fields_to_write(value))
    if inspect.isfunction(value):
        return ConfigDict({"bind": name_of(value)})
    return as_config_value(value, where)


def _fields_to_write(instance: Any) -> dict:
    """The fields that differ from the class's defaults, so that a default that JSON cannot hold is left out."""
    parameters = _parameters(type(instance))
    values = {name: getattr(instance, name) for name in parameters}
    return {name: value for name, value in values.items() if value is not parameters[name].default}


def _checked(target: Callable, values: dict, where: str) -> dict:
    """The values, with ints as floats and lists as tuples where the parameter requires it."""
    parameters = _parameters(target)
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    known = {name: p for name, p in parameters.items() if p.kind not in _VARIADIC}
    for name in values:
        if name not in known and not takes_any:
            place = "" if where == target.__qualname__ else f"{where}: "
            hint = nearest(name, known)
            raise ConfigError(f"{place}{target.__qualname__} has no parameter {name!r}; {hint}")
    return {k: coerce(v, known[k], f"{where}.{k}") if k in known else v for k, v in values.items()}


@functools.cache
def _parameters(target: Callable) -> dict[str, inspect.Parameter]:
    """Name → parameter, for those that can be passed by keyword; annotations are evaluated where possible."""
    try:
        signature = inspect.signature(target, eval_str=True)
    except Exception:  # an annotation may exist for type checkers only: then it remains text, and is ignored
        signature = inspect.signature(target)
    hidden = ("parent", "name") if _is_linen_module(target) else ()
    return {
        name: _with_made_default(target, p)
        for name, p in signature.parameters.items()
        if p.kind is not inspect.Parameter.POSITIONAL_ONLY and name not in hidden
    }


def _with_made_default(target: Callable, parameter: inspect.Parameter) -> inspect.Parameter:
    """A dataclass's default_factory is only a marker in the signature: replace it by the default that it makes."""
    fields = {f.name: f for f in dataclasses.fields(target)} if dataclasses.is_dataclass(target) else {}
    field = fields.get(parameter.name)
    if field is None or field.default_factory is dataclasses.MISSING:
        return parameter
    return parameter.replace(default=field.default_factory())


def _is_linen_module(target: Callable) -> bool:
    """By name, since importing flax takes seconds; linen fills the fields `parent` and `name` itself."""
    bases = getattr(target, "__mro__", ())
    return any((base.__module__, base.__name__) == ("flax.linen.module", "Module") for base in bases)

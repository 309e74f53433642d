"""The interface of a network to the rest of the library, and adapters for flax modules and functions.

    F(params, x, c_noise, cond) -> an array of x's shape

    module or function ── as_network ──► Network ── init(key, x, c_noise) ──► params, owned by the caller
                                            └────── network(params, x, c_noise, cond=, key=, train=) ──► F

A classifier has another output: its module states it by output_shape(x.shape) (`models.classifier`).

The score is c_skip x + c_out F(c_in x, c_noise) (as in Karras et al. 2022, arXiv 2206.00364, eq. 7). The coefficients
are the parameterization's. x is [B, ...], of numbers or of tokens, c_noise a float [B] (a function of the noise level),
and cond anything that the network is conditioned on. Parameters are a plain nested dict of arrays that the caller owns.
An adapter is frozen and hashable, so it may be a static argument of jax.jit or a constant of a closure.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from jaxtyping import Array, Float, Num

from models.conditioning import OPTIONS

if TYPE_CHECKING:
    from flax import nnx

Params = Any
Cond = Any


@runtime_checkable
class Network(Protocol):
    """F(params, x, c_noise, cond): x [B, ...], c_noise [B] -> [B, ...]. `key` is for dropout, if train=True."""

    def init(self, key: Array, x: Array, c_noise: Array, cond: Cond = None) -> Params:
        """Parameters, for inputs of these shapes."""

    def __call__(
        self,
        params: Params,
        x: Array,
        c_noise: Array,
        *,
        cond: Cond = None,
        key: Any = None,
        train: bool = False,
    ) -> Array:
        """The network's output, of x's shape."""
        ...


@dataclass(frozen=True)
class LinenNetwork:
    """A flax.linen module with __call__(x, c_noise), and optionally cond and train, as a Network.

    Errors: ValueError for an output shape other than x's, or output_shape(x.shape) if the module has that method; for
    train=True without a key if the module draws random numbers; and for collections other than "params" (batch
    statistics, caches)."""

    module: nn.Module

    def __repr__(self) -> str:
        return f"LinenNetwork({_name(self.module)})"

    @property
    def num_classes(self) -> int | None:
        """The module's number of classes; None if it states none."""
        return getattr(self.module, "num_classes", None)

    def init(self, key: Array, x: Array, c_noise: Array, cond: Cond = None) -> Params:
        _check_inputs(x, c_noise)
        keywords = _accepted(self.module, cond, train=False)
        variables = self.module.init(key, x, c_noise, **keywords)
        others = sorted(set(variables) - {"params"})
        if others:
            raise ValueError(f"{_name(self.module)}: expected parameters only, got {others} too")
        return variables.get("params", {})

    def __call__(
        self,
        params: Params,
        x: Num[Array, "..."],
        c_noise: Float[Array, "..."],
        *,
        cond: Cond = None,
        key: Any = None,
        train: bool = False,
    ) -> Array:
        _check_inputs(x, c_noise)
        keywords = _accepted(self.module, cond, train)
        rngs = {"dropout": key} if train and key is not None else {}
        try:
            out = self.module.apply({"params": params}, x, c_noise, rngs=rngs, **keywords)
        except errors.InvalidRngError as error:
            raise _needs_key(self.module) from error
        return _checked_output(out, x, self.module)


@dataclass(frozen=True, eq=False)
class NnxNetwork:
    """A flax.nnx module with __call__(x, c_noise), and optionally cond and train, as a Network.

    The module is split once. `init` returns the parameters it was built with, whatever the key. Its random
    streams restart from `key` at each call. Errors: as LinenNetwork; TypeError at construction for other
    state (batch statistics, caches), which a pure function of the parameters cannot update."""

    module: InitVar[Any]
    graphdef: "nnx.GraphDef" = field(init=False, repr=False)
    params: Any = field(init=False, repr=False)
    streams: Any = field(init=False, repr=False)
    call: Callable[..., Any] = field(init=False)
    num_classes: int | None = field(init=False)

    def __post_init__(self, module: "nnx.Module") -> None:
        from flax import nnx  # slow to import, and needed here alone

        graphdef, params, streams, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
        if nnx.to_flat_state(rest):
            names = sorted({type(leaf).__name__ for _, leaf in nnx.to_flat_state(rest)})
            raise TypeError(f"{_name(module)}: expected nnx.Param and random streams only, got {names} too")
        for name, value in {"graphdef": graphdef, "params": params, "streams": streams}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "call", type(module).__call__)
        object.__setattr__(self, "num_classes", getattr(module, "num_classes", None))

    def init(self, key: Array, x: Array, c_noise: Array, cond: Cond = None) -> Params:
        _check_inputs(x, c_noise)
        from flax import nnx

        return _string_keys(nnx.to_pure_dict(self.params))

    def __call__(
        self,
        params: Params,
        x: Num[Array, "..."],
        c_noise: Float[Array, "..."],
        *,
        cond: Cond = None,
        key: Any = None,
        train: bool = False,
    ) -> Array:
        _check_inputs(x, c_noise)
        from flax import nnx

        state = jax.tree.map(lambda leaf: leaf, self.params)  # replace_by_pure_dict writes into it
        nnx.replace_by_pure_dict(state, params)
        module = nnx.merge(self.graphdef, state, self._reseeded(key if train else None))
        module.train() if train else module.eval()
        if train and key is None and jax.tree.leaves(self.streams):
            raise _needs_key(module)
        out = module(x, c_noise, **_accepted(module, cond, train))
        return _checked_output(out, x, module)

    def _reseeded(self, key: Any) -> Any:
        """Every stream restarts from its own key, at count 0; with one key, layers would share their masks."""
        if key is None:
            return self.streams
        leaves, treedef = jax.tree.flatten(self.streams)
        fresh = [
            jax.random.split(jax.random.fold_in(key, i), leaf.shape)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros_like(leaf)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(treedef, fresh)


@dataclass(frozen=True, init=False)
class FunctionNetwork:
    """A plain function apply(params, x, c_noise, cond) as a Network; init(key, x, c_noise, cond) -> params.

    Without init there are no parameters: {}. ValueError for an output shape other than x's."""

    apply: Callable[..., Array]
    init_params: Callable[..., Params] | None

    def __init__(self, apply: Callable[..., Array], init: Callable[..., Params] | None = None) -> None:
        object.__setattr__(self, "apply", apply)
        object.__setattr__(self, "init_params", init)

    def init(self, key: Array, x: Array, c_noise: Array, cond: Cond = None) -> Params:
        _check_inputs(x, c_noise)
        return {} if self.init_params is None else self.init_params(key, x, c_noise, cond)

    def __call__(
        self,
        params: Params,
        x: Num[Array, "..."],
        c_noise: Float[Array, "..."],
        *,
        cond: Cond = None,
        key: Any = None,
        train: bool = False,
    ) -> Array:
        _check_inputs(x, c_noise)
        return _checked_output(self.apply(params, x, c_noise, cond), x, self.apply)


def as_network(module: Any) -> Network:
    """The Network for a linen or nnx module, a function (params, x, c_noise, cond), or a Network itself.

    Errors: TypeError for anything else, and for a class instead of an instance."""
    fits = "a Network, a linen or nnx module, or a function (params, x, c_noise, cond)"
    if isinstance(module, type):
        raise TypeError(f"as_network: expected {fits}, got the class {module.__name__}, not an instance")
    if isinstance(module, nn.Module):
        return LinenNetwork(module)
    if _is_nnx_module(module):
        return NnxNetwork(module)
    if isinstance(module, Network):
        return module
    if callable(module):
        return FunctionNetwork(cast(Callable[..., Array], module))
    raise TypeError(f"as_network: expected {fits}, got {type(module).__name__}")


def takes(network: Network) -> dict[str, int] | None:
    """What the network can be conditioned on: option of `models.conditioning` → size, for a module that has them.

    {} for a module whose call takes no cond. None for all others: they take any.
    """
    module = getattr(network, "module", None)
    call = type(module).__call__ if isinstance(network, LinenNetwork) else getattr(network, "call", None)
    if call is None:
        return None
    if not _takes_cond(call):
        return {}
    source = module if isinstance(network, LinenNetwork) else network
    found = {option: getattr(source, option, None) for option in OPTIONS.values()}
    declared = {option: size or 0 for option, size in found.items() if size is not None}
    return declared if {"num_classes", "cond_dim"} <= set(declared) else None


def _takes_cond(call: Callable) -> bool:
    parameters = inspect.signature(call).parameters
    return "cond" in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _is_nnx_module(module: Any) -> bool:
    """Without importing nnx: there is no module of it before it is imported."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(module, nnx.Module)


def _name(module: Any) -> str:
    return getattr(module, "__name__", type(module).__name__)


def _needs_key(module: Any) -> ValueError:
    return ValueError(f"{_name(module)}: train=True draws random numbers (dropout): expected key=, got None")


def _check_inputs(x: Array, c_noise: Array) -> None:
    if c_noise.shape != x.shape[:1]:
        raise ValueError(f"c_noise: expected shape {x.shape[:1]} (one for each x[i]), got {c_noise.shape}")


def _checked_output(out: Any, x: Array, module: Any) -> Array:
    shape, output_shape = getattr(out, "shape", type(out).__name__), getattr(module, "output_shape", None)
    if output_shape is not None and shape != output_shape(x.shape):
        raise ValueError(f"{_name(module)}: expected an output of shape {output_shape(x.shape)}, got {shape}")
    if output_shape is None and shape != x.shape:
        raise ValueError(f"{_name(module)}: expected an output of x's shape {x.shape}, got {shape}")
    return out


def _accepted(module: Any, cond: Cond, train: bool) -> dict[str, Any]:
    """cond and train as keywords, if the module's __call__ takes them; TypeError for a cond that it does not take."""
    parameters = inspect.signature(type(module).__call__).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if cond is not None and not takes_any and "cond" not in parameters:
        raise TypeError(f"{_name(module)}: its __call__ takes no cond, got one")
    keywords = {"train": train} if cond is None else {"cond": cond, "train": train}
    return {name: value for name, value in keywords.items() if takes_any or name in parameters}


def _string_keys(tree: Any) -> Any:
    """Integer keys, of lists of nnx layers, as strings: integers cannot be sorted among strings or saved."""
    if not isinstance(tree, dict):
        return tree
    return {str(name): _string_keys(value) for name, value in tree.items()}

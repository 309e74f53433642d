"""Pytrees of different classes are different programs to jit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import EDM, VP, RectifiedFlow, SubVP
from sde_lib.node import PyTreeNode, Scalar, static


def test_classes_with_as_many_leaves_have_unlike_structures():
    for a, b in ((VP(), SubVP()), (EDM(), RectifiedFlow())):
        assert jax.tree.structure(a) != jax.tree.structure(b)
    assert jax.tree.structure(VP(beta_max=5.0)) == jax.tree.structure(VP())


def test_jit_never_runs_another_classes_program():
    """Many classes with one leaf each: with equal structures a sixth of these calls gave another class's answer."""
    apply = jax.jit(lambda node: node.value * node.factor())
    nodes = []
    for k in range(20):
        made = type(
            f"N{k}", (PyTreeNode,), {"__annotations__": {"value": Scalar}, "factor": lambda self, k=k: float(k)}
        )
        nodes.append(made(value=1.0))
    for _ in range(3):
        assert [float(apply(node)) for node in nodes] == list(range(20))


def test_statics_leaves_and_replacement():
    class Point(PyTreeNode):
        x: Scalar = 0.0
        name: str = static("a")

    point = Point(x=2.0)
    assert jax.tree.leaves(point) == [2.0]
    assert jax.tree.structure(point) != jax.tree.structure(point.replace(name="b"))
    assert jax.tree.map(lambda v: v + 1, point) == Point(x=3.0)
    assert jax.tree_util.keystr(jax.tree.leaves_with_path(point)[0][0]) == ".x"
    with pytest.raises(AttributeError):
        point.x = 1.0


def test_an_attribute_that_would_set_no_field():
    """`t_max = 0.99` without an annotation shadows the field: the value built would have the inherited default."""
    with pytest.raises(TypeError, match=r"Short\.t_max = 0\.99 has no annotation.* write `t_max: Scalar = 0\.99`"):

        class Short(VP):
            t_max = 0.99

    class Annotated(VP):
        t_max: Scalar = 0.99
        label = "an attribute that is no field"

    assert Annotated().t_max == 0.99


def test_an_init_that_would_set_no_field():
    with pytest.raises(TypeError, match="defines __init__, but its fields are its arguments"):

        class Own(VP):
            def __init__(self, rate):
                self.rate = rate


def test_a_value_is_shown_on_one_short_line():
    """Arrays and parameters by their size, functions by their name, and no field that is unused."""

    class Held(PyTreeNode):
        params: Any = None
        unused: Any = None
        of: Any = static(np.tanh)
        many: Any = ()

    held = Held(params={"a": jnp.zeros((4, 5)), "b": np.zeros(5)}, of=len, many="long " * 100)
    assert repr(held) == "Held(params=25 numbers in 2 arrays, of=len, many=str(…))"
    assert repr(Held(many=np.zeros((3, 4)))) == "Held(of=tanh, many=float64[3, 4])"
    assert repr(VP()) == "VP(t_min=1e-05, t_max=1.0, beta_min=0.1, beta_max=20.0)"
    assert repr(jax.eval_shape(lambda held: held, Held(many=jnp.zeros(3)))).count("\n") == 0

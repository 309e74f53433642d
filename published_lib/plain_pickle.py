"""Pickles as data: an interpreter for the opcodes that `torch.save` uses. It calls only functions of a given table.

A pickle is a program for a machine with a stack and a memo. Three of its opcodes reach outside: GLOBAL fetches any name
of any module, REDUCE calls it, BUILD writes into an object. Python's own machine runs them. This one looks names up in
a table from the caller, and can call nothing else:

    GLOBAL  module name   → that name of the table, or an error             push the name
    REDUCE  name, tuple   → table[name](*tuple)                             push the result
    BUILD   object, state → object.build(state), on results of the table
    BINPERSID  id         → persistent(id)

The other opcodes allowed are those of constants, containers, stack and memo. All others are errors, such as those that
make instances or belong to other protocols. Only str and int are hashed, and each opcode adds at most one entry to the
memo. So time and memory are proportional to the length of the program.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

_LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "BINBYTES", "SHORT_BINBYTES")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Name(NamedTuple):
    """A name of the table, not called yet."""

    module: str
    name: str


def run_pickle(
    program: bytes | BinaryIO, table: Mapping[tuple[str, str], Callable | None], persistent: Callable[[Any], Any]
) -> Any:
    """The value that the pickle describes. In a file it starts at the current position, and no byte after it is read.

    `table` maps (module, name) to a function, or to None for a name that may occur but not be called. `persistent` maps
    a persistent id to its value. ValueError for what is forbidden or damaged, with the byte where that is known;
    TypeError for arguments that do not fit a function.
    """
    machine = _Machine(table, persistent)
    for opcode, argument, position in pickletools.genops(program):
        if opcode.name == "STOP":
            return machine.result()
        try:
            machine.step(opcode.name, argument)
        except (IndexError, KeyError) as error:
            raise ValueError(f"its pickle is damaged at byte {position}, {opcode.name}") from error
    raise ValueError("its pickle ends too early")


def shown(value: Any) -> str:
    """A short text for a value of unknown size; for a container, only its type."""
    plain = value is None or type(value) in (bool, int, float, str, bytes)
    text = repr(value) if plain else f"a {type(value).__name__.strip('_').lower()}"
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Machine:
    def __init__(self, table: Mapping[tuple[str, str], Callable | None], persistent: Callable[[Any], Any]):
        self.table, self.persistent = table, persistent
        self.stack: list = []
        self.below: list[list] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in _LITERALS:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode == "MARK":
            self.below.append(stack)
            self.stack = []
        elif opcode == "TUPLE":
            items = self.since_mark()
            self.stack.append(tuple(items))
        elif opcode in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[opcode])]
            stack.append(tuple(reversed(items)))
        elif opcode == "EMPTY_LIST":
            stack.append([])
        elif opcode == "EMPTY_DICT":
            stack.append({})
        elif opcode in ("APPEND", "APPENDS"):
            self.extend([stack.pop()] if opcode == "APPEND" else self.since_mark())
        elif opcode in ("SETITEM", "SETITEMS"):
            self.set_items([stack.pop(), stack.pop()][::-1] if opcode == "SETITEM" else self.since_mark())
        elif opcode == "GLOBAL":
            stack.append(self.name(argument))
        elif opcode == "REDUCE":
            arguments = stack.pop()
            stack.append(self.call(stack.pop(), arguments))
        elif opcode == "BUILD":
            state = stack.pop()
            self.build(stack[-1], state)
        elif opcode == "BINPERSID":
            stack.append(self.persistent(stack.pop()))
        elif opcode != "PROTO":
            raise ValueError(f"its pickle uses the opcode {opcode}, which is not allowed")

    def result(self) -> Any:
        if len(self.stack) != 1 or self.below:
            raise ValueError("its pickle ends with values or marks left over")
        return self.stack[0]

    def since_mark(self) -> list:
        items, self.stack = self.stack, self.below.pop()
        return items

    def extend(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError(f"its pickle appends to {shown(self.stack[-1])}")
        self.stack[-1].extend(items)

    def set_items(self, items: list) -> None:
        target, keys = self.stack[-1], items[::2]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(f"its pickle sets items of {shown(target)}")
        for key in keys:
            if type(key) not in (str, int):
                raise ValueError(f"expected names or numbers as the keys of a dict, got {shown(key)}")
        target.update(zip(keys, items[1::2], strict=True))

    def name(self, argument: str) -> Name:
        name = Name(*argument.split(" ", 1))
        if name not in self.table:
            raise ValueError(f"its pickle names {shown('.'.join(name))}, which is not allowed")
        return name

    def call(self, name: Any, arguments: Any) -> Any:
        function = self.table[name] if type(name) is Name else None
        if function is None or type(arguments) is not tuple:
            raise ValueError(f"its pickle calls {shown(name)} with {shown(arguments)}")
        return function(*arguments)

    def build(self, target: Any, state: Any) -> None:
        if not hasattr(target, "build"):
            raise ValueError(f"its pickle writes into {shown(target)}")
        target.build(state)

"""Pickles as data: an interpreter for the opcodes of `torch.save` and of protocol 4. It calls only a given table.

A pickle is a program for a machine with a stack and a memo. Three of its opcodes reach outside: GLOBAL fetches any name
of any module, REDUCE calls it, BUILD writes into an object. Python's own machine runs them. This one looks names up in
a table from the caller, and can call nothing else:

    GLOBAL  module name   → that name of the table, or an error             push the name; STACK_GLOBAL likewise
    REDUCE  name, tuple   → table[name](*tuple)                             push the result; NEWOBJ likewise
    BUILD   object, state → object.build(state), on results of the table
    BINPERSID  id         → persistent(id)

The other opcodes allowed are those of constants, containers, stack and memo. All others are errors. Only str and int
are hashed, and each opcode adds at most one entry to the memo. So time and memory are proportional to the length of the
program: a text or bytes that claims more than what is left of the file ends the program.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple, cast

_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "EMPTY_SET": frozenset()}
_IGNORED = ("PROTO", "FRAME")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Name(NamedTuple):
    """A name of the table, not called yet."""

    module: str
    name: str


class Bounded:
    """A file of `size` bytes that is never asked for more bytes than it has left: Python would reserve the memory."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, max(0, self._size - self._file.tell())))

    def readline(self) -> bytes:
        return self._file.readline()

    def tell(self) -> int:
        return self._file.tell()


def run_pickle(
    program: bytes | BinaryIO | Bounded,
    table: Mapping[tuple[str, str], Callable | None],
    persistent: Callable[[Any], Any],
) -> Any:
    """The value that the pickle describes. In a file it starts at the current position, and no byte after it is read.

    `table` maps (module, name) to a function, or to None for a name that may occur but not be called. `persistent` maps
    a persistent id to its value. ValueError for what is forbidden or damaged, with the byte where that is known;
    TypeError for arguments that do not fit a function.
    """
    machine = _Machine(table, persistent)
    for opcode, argument, position in pickletools.genops(cast(BinaryIO, program)):
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
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
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
            stack.append(self.name(*argument.split(" ", 1)))
        elif opcode == "STACK_GLOBAL":
            attribute = stack.pop()
            stack.append(self.name(stack.pop(), attribute))
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack.append(self.call(stack.pop(), arguments))
        elif opcode == "BUILD":
            state = stack.pop()
            self.build(stack[-1], state)
        elif opcode == "BINPERSID":
            stack.append(self.persistent(stack.pop()))
        elif opcode not in _IGNORED:
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

    def name(self, module: Any, attribute: Any) -> Name:
        if type(module) is not str or type(attribute) is not str:
            raise ValueError(f"its pickle names {shown(attribute)} of {shown(module)}")
        if (module, attribute) not in self.table:
            raise ValueError(f"its pickle names {shown(f'{module}.{attribute}')}, which is not allowed")
        return Name(module, attribute)

    def call(self, name: Any, arguments: Any) -> Any:
        function = self.table[name] if type(name) is Name else None
        if function is None or type(arguments) is not tuple:
            raise ValueError(f"its pickle calls {shown(name)} with {shown(arguments)}")
        return function(*arguments)

    def build(self, target: Any, state: Any) -> None:
        if not hasattr(target, "build"):
            raise ValueError(f"its pickle writes into {shown(target)}")
        target.build(state)

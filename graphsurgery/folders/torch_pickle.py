"""The pickle within PyTorch's weights files, read by a machine that has nothing to run.

A pickle is a program for a stack machine. Python's own runs whatever callables the stream names; filtering them still leaves
what it does by itself: it grows its memo to any index that a stream states, and hashes nested tuples in exponential time. This
one knows the few operations that state dicts are written with, in protocols 2 to 5. It calls only our own constructors, each of
which fills in a dataclass (`torch_globals`); any other global is refused by name when it is met, called or not. Only strings
and numbers are hashed, nothing recurses, and the number of operations is bounded, so memory and time are, too.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from graphsurgery.errors import WeightsError
from graphsurgery.folders.torch_globals import ALLOWED, CONSTRUCTORS, Global, Storage
from graphsurgery.model.parsing import shorten
from graphsurgery.model.sources import FileBytes

LARGEST_READ = 4 << 20
"""Bytes in one read: the directory of a zip with 40 000 entries, or the longest string of a pickle."""


class BoundedStream(io.RawIOBase):
    """The bytes ``start`` to ``end`` of ``file``; a read of more than `LARGEST_READ` bytes that are there is a ValueError."""

    def __init__(self, file: FileBytes, start: int, end: int) -> None:
        self._file, self._start, self._size, self._at = file, start, end - start, 0

    def read(self, size: int = -1, /) -> bytes:
        there = max(self._size - self._at, 0)
        size = there if size < 0 else min(size, there)
        if size > LARGEST_READ:
            raise ValueError(f"{size} bytes in one piece, more than {LARGEST_READ}")
        found = self._file.read(self._start + self._at, size)
        self._at += size
        return found

    def readline(self, size: int | None = -1, /) -> bytes:
        """Up to and with the next newline; for the names of globals, so never long."""
        at, piece = self._at, self.read(min(1024, max(self._size - self._at, 0)))
        line = piece[: piece.find(b"\n") + 1] or piece
        self._at = at + len(line)
        return line

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


MOST_OPERATIONS = 500_000
"""Half a second's work. A tensor takes some 34; the largest single files have a few thousand tensors."""
CONVERT = (
    "where the file can be trusted, convert it with PyTorch: "
    "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')"
)

MARK = object()
VALUES = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING")
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": MARK}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Unpickler:
    """Reads one pickle; ``persistent`` makes a storage of what the stream says about it (None: it says something else)."""

    def __init__(self, path: Path, persistent: Callable[[object], Storage | None]) -> None:
        self._path = path
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self, stream: BoundedStream) -> object:
        """The object that is pickled at the stream's position; WeightsError for everything else."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], stream))):
                if count > MOST_OPERATIONS:
                    raise self._wrong(f"its pickle has more than {MOST_OPERATIONS} operations")
                self._step(opcode.name, argument)
            (result,) = self._stack
        except WeightsError:
            raise
        except (IndexError, KeyError, ValueError, TypeError) as error:  # an empty stack, an unknown memo, broken operands
            raise self._wrong(f"its pickle is broken: {shorten(str(error))}") from error
        return result

    def _step(self, name: str, argument: Any) -> None:
        if name in VALUES:
            self._stack.append(argument)
        elif name in CONSTANTS:
            self._stack.append(CONSTANTS[name])
        elif name in TUPLES:
            self._stack[-TUPLES[name] :] = [self._top(TUPLES[name])]
        elif name in OPERATIONS:
            OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise self._wrong(f"its pickle uses the operation {name}, which no state dict needs")

    def _top(self, count: int) -> tuple[Any, ...]:
        if len(self._stack) < count:
            raise IndexError("the stack is empty")
        return tuple(self._stack[-count:])

    def _since_mark(self) -> list[Any]:
        """What was pushed since the last mark; both are taken off."""
        at = len(self._stack) - 1
        while at >= 0 and self._stack[at] is not MARK:
            at -= 1
        if at < 0:
            raise IndexError("there is no mark")
        found = self._stack[at + 1 :]
        del self._stack[at:]
        return found

    def _push_global(self, name: str) -> None:
        if name not in ALLOWED:
            raise self._wrong(f"its pickle names {shorten(name)!r}, which is no part of a state dict and was not run", CONVERT)
        self._stack.append(Global(name))

    def named(self, argument: str) -> None:
        self._push_global(argument.replace(" ", ".", 1))

    def named_on_stack(self, _: object) -> None:
        module, name = self._top(2)
        del self._stack[-2:]
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global whose name is no text")
        self._push_global(f"{module}.{name}")

    def empty_dict(self, _: object) -> None:
        self._stack.append({})

    def empty_list(self, _: object) -> None:
        self._stack.append([])

    def make_tuple(self, _: object) -> None:
        self._stack.append(tuple(self._since_mark()))

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def append(self, _: object) -> None:
        self._extend([self._stack.pop()])

    def appends(self, _: object) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError("items for what is no list")
        self._stack[-1].extend(items)

    def set_item(self, _: object) -> None:
        pair = self._top(2)
        del self._stack[-2:]
        self._update(list(pair))

    def set_items(self, _: object) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise TypeError(f"a dict key of type {type(key).__name__}")
            target[key] = value

    def reduce(self, _: object) -> None:
        function, arguments = self._top(2)
        del self._stack[-2:]
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("a call of what is no function")
        constructor = CONSTRUCTORS.get(function.name)
        made = constructor(arguments) if constructor is not None else None
        if made is None:
            raise TypeError(f"{function.name} is called as PyTorch never calls it")
        self._stack.append(made)

    def build(self, _: object) -> None:
        """Attributes for an object: the ``_metadata`` of a state dict, of which nothing is needed."""
        target, state = self._top(2)
        self._stack.pop()
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise TypeError("attributes for what is no state dict")

    def persistent(self, _: object) -> None:
        storage = self._persistent(self._stack.pop())
        if storage is None:
            raise TypeError("a persistent id that names no storage")
        self._stack.append(storage)

    def _wrong(self, what: str, advice: str = "download the file again, or " + CONVERT) -> WeightsError:
        return WeightsError(f"{self._path}: {what}", advice)


OPERATIONS: dict[str, Callable[[Unpickler, Any], None]] = {
    "GLOBAL": Unpickler.named,
    "STACK_GLOBAL": Unpickler.named_on_stack,
    "EMPTY_DICT": Unpickler.empty_dict,
    "EMPTY_LIST": Unpickler.empty_list,
    "TUPLE": Unpickler.make_tuple,
    "BINPUT": Unpickler.put,
    "LONG_BINPUT": Unpickler.put,
    "MEMOIZE": Unpickler.memoize,
    "BINGET": Unpickler.get,
    "LONG_BINGET": Unpickler.get,
    "APPEND": Unpickler.append,
    "APPENDS": Unpickler.appends,
    "SETITEM": Unpickler.set_item,
    "SETITEMS": Unpickler.set_items,
    "REDUCE": Unpickler.reduce,
    "BUILD": Unpickler.build,
    "BINPERSID": Unpickler.persistent,
}

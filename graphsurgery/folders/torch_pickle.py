"""An unpickler for PyTorch's weights files that runs no code from the file.

A pickle is a program for a stack machine. Python's own unpickler runs whatever callables the pickle names. Filtering them is
not enough: it still grows its memo to any index in the pickle, and it hashes nested tuples in exponential time. This one knows
only the few operations that state dicts need, in protocols 2 to 5. It calls only our own constructors, each of which fills in a
dataclass (`torch_globals`). It refuses any other global by name, called or not. It hashes only strings and numbers, never
recurses, and limits the number of operations, which bounds memory and time.
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
"""Upper limit on the bytes of one read: the directory of a zip with 40 000 entries, or the longest string of a pickle."""


class BoundedStream(io.RawIOBase):
    """The bytes ``start`` to ``end`` of ``file`` as a stream, for readers that cannot be trusted to ask for little. A read of
    more than `LARGEST_READ` existing bytes raises ValueError."""

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
        """Return the bytes up to and including the next newline. Only names of globals are read this way, so at most 1024
        bytes."""
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
"""Half a second of work. A tensor takes some 34 operations; the largest single files have a few thousand tensors."""
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
    """Reads one pickle. ``make_storage`` returns the storage that a persistent id of the pickle names, or None if it names
    none."""

    def __init__(self, path: Path, make_storage: Callable[[object], Storage | None]) -> None:
        self._path = path
        self._make_storage = make_storage
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self, stream: BoundedStream) -> object:
        """Return the object that is pickled at the stream's position. Raise WeightsError for anything else."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], stream))):
                if count > MOST_OPERATIONS:
                    raise self._make_error(f"its pickle has more than {MOST_OPERATIONS} operations")
                self._execute(opcode.name, argument)
            (result,) = self._stack
        except WeightsError:
            raise
        except (IndexError, KeyError, ValueError, TypeError) as error:  # an empty stack, an unknown memo, broken operands
            raise self._make_error(f"its pickle is broken: {shorten(str(error))}") from error
        return result

    def _execute(self, name: str, argument: Any) -> None:
        if name in VALUES:
            self._stack.append(argument)
        elif name in CONSTANTS:
            self._stack.append(CONSTANTS[name])
        elif name in TUPLES:
            self._stack[-TUPLES[name] :] = [self._top(TUPLES[name])]
        elif name in OPERATIONS:
            OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise self._make_error(f"its pickle uses the operation {name}, which state dicts do not need")

    def _top(self, count: int) -> tuple[Any, ...]:
        if len(self._stack) < count:
            raise IndexError("the stack is empty")
        return tuple(self._stack[-count:])

    def _pop_to_mark(self) -> list[Any]:
        """Take all values down to the last mark off the stack, and the mark, too. Return the values."""
        at = len(self._stack) - 1
        while at >= 0 and self._stack[at] is not MARK:
            at -= 1
        if at < 0:
            raise IndexError("there is no mark")
        found = self._stack[at + 1 :]
        del self._stack[at:]
        return found

    def _push_allowed(self, name: str) -> None:
        if name not in ALLOWED:
            raise self._make_error(
                f"its pickle names {shorten(name)!r}, which does not belong to a state dict and was not run", CONVERT
            )
        self._stack.append(Global(name))

    def push_global(self, argument: str) -> None:
        self._push_allowed(argument.replace(" ", ".", 1))

    def push_global_from_stack(self, _: object) -> None:
        module, name = self._top(2)
        del self._stack[-2:]
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("the name of a global is not a text")
        self._push_allowed(f"{module}.{name}")

    def push_dict(self, _: object) -> None:
        self._stack.append({})

    def push_list(self, _: object) -> None:
        self._stack.append([])

    def make_tuple(self, _: object) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def append(self, _: object) -> None:
        self._extend([self._stack.pop()])

    def appends(self, _: object) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError("items are added to something that is not a list")
        self._stack[-1].extend(items)

    def set_item(self, _: object) -> None:
        pair = self._top(2)
        del self._stack[-2:]
        self._update(list(pair))

    def set_items(self, _: object) -> None:
        self._update(self._pop_to_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items are added to something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise TypeError(f"a dict key of type {type(key).__name__}")
            target[key] = value

    def reduce(self, _: object) -> None:
        function, arguments = self._top(2)
        del self._stack[-2:]
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("the pickle calls something that is not a function")
        constructor = CONSTRUCTORS.get(function.name)
        made = constructor(arguments) if constructor is not None else None
        if made is None:
            raise TypeError(f"{function.name} is called with arguments that PyTorch never writes")
        self._stack.append(made)

    def build(self, _: object) -> None:
        """Ignore the attributes of an object: no value of a state dict's ``_metadata`` is needed."""
        target, state = self._top(2)
        self._stack.pop()
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise TypeError("attributes are set on something that is not a state dict")

    def push_storage(self, _: object) -> None:
        storage = self._make_storage(self._stack.pop())
        if storage is None:
            raise TypeError("a persistent id does not name a storage")
        self._stack.append(storage)

    def _make_error(self, what: str, advice: str = "download the file again, or " + CONVERT) -> WeightsError:
        return WeightsError(f"{self._path}: {what}", advice)


OPERATIONS: dict[str, Callable[[Unpickler, Any], None]] = {
    "GLOBAL": Unpickler.push_global,
    "STACK_GLOBAL": Unpickler.push_global_from_stack,
    "EMPTY_DICT": Unpickler.push_dict,
    "EMPTY_LIST": Unpickler.push_list,
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
    "BINPERSID": Unpickler.push_storage,
}

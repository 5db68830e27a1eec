"""Read which tensors a PyTorch pickle names, without executing any of its instructions.

No class or function that a pickle names is ever looked up. Calls that rebuild a tensor are known by
name; all others become a node that holds their arguments. Source: Python's pickletools, PyTorch's
torch/_utils.py and torch/serialization.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from p2u.package.strict_json import is_int

#: Limits: bytes, instructions (a tensor takes about 35), nesting of containers, and of a name.
MAX_PICKLE = 16 << 20
MAX_STEPS = 2_000_000
MAX_NESTED = 1000
MAX_DEPTH = 64
MAX_NAME = 1000
MAX_DIMS = 64
MAX_SIZE = 2**63 - 1
_MAX_GLOBAL = 1000


class UnknownPickleError(Exception):
    """A pickle that is not understood here; it need not be damaged."""


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function by name, such as ``torch FloatStorage``."""

    name: str


@dataclass(eq=False, slots=True)
class PickledObject:
    """A list, dictionary, set or any object: keys and values, in order."""

    pairs: list[tuple[object, object]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Storage:
    """Elements that tensors share.

    Attributes:
        kind: Of its elements: ``FloatStorage``.
        key: Which one.
        elems: Their number.
    """

    kind: str
    key: str
    elems: int


@dataclass(frozen=True, eq=False, slots=True)
class PickledTensor:
    """A view of a storage, in elements; ``dtype`` is of PyTorch, where the storage says none."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str = ""


class Pickle:
    """One pickle, read once.

    Args:
        data: Bytes that it begins in.
        at: Where it begins.
        max_steps: Most instructions that are carried out.

    Attributes:
        storages: Those that it names; None for a key that is used for different ones.
        at: Where the next pickle begins.
    """

    def __init__(self, data: bytes, at: int = 0, *, max_steps: int = MAX_STEPS) -> None:
        self._data = data
        self._max_steps = max_steps
        self.at = at
        self._stack: list[object] = []
        self._marks: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self.storages: dict[str, Storage | None] = {}

    def load(self) -> object:
        """Read the object that the pickle holds.

        Returns:
            ``None``, numbers, ``str``, ``bytes``, ``tuple``, and this module's classes.

        Raises:
            UnknownPickleError: It is malformed, too long or uses what PyTorch does not.
        """
        steps = _STEPS
        for _ in range(self._max_steps):
            if self.at >= len(self._data):
                raise UnknownPickleError("it ends early")
            code = self._data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                return self.pop()
            step = steps.get(code)
            if step is None:
                raise UnknownPickleError(f"instruction {code:#x}")
            step(self)
        raise UnknownPickleError("too many instructions")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        part = self._data[self.at : self.at + count]
        if len(part) < count:
            raise UnknownPickleError("it ends early")
        self.at += count
        return part

    def number(self, width: int) -> int:
        """The next unsigned integer."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        """The text up to the end of the line."""
        end = self._data.find(b"\n", self.at, self.at + _MAX_GLOBAL)
        if end < 0:
            raise UnknownPickleError("a name is too long")
        text = self._data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return text

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def pop(self) -> object:
        """Take a value from the stack."""
        if not self._stack:
            raise UnknownPickleError("its stack is empty")
        return self._stack.pop()

    def top(self) -> object:
        """The value on top of the stack."""
        if not self._stack:
            raise UnknownPickleError("its stack is empty")
        return self._stack[-1]

    def mark(self) -> None:
        """Begin a new stack."""
        self._marks.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[object]:
        """All since the last mark."""
        if not self._marks:
            raise UnknownPickleError("there is no mark")
        found, self._stack = self._stack, self._marks.pop()
        return found

    def pop_tuple(self, count: int) -> None:
        """Replace the values on top by a tuple of them."""
        if len(self._stack) < count:
            raise UnknownPickleError("its stack is empty")
        at = len(self._stack) - count
        self._stack[at:] = [tuple(self._stack[at:])]

    def get(self, number: int) -> None:
        """Push what was kept."""
        if number not in self._memo:
            raise UnknownPickleError("it uses what it did not keep")
        self.push(self._memo[number])

    def put(self, number: int) -> None:
        """Keep the value on top."""
        self._memo[number] = self.top()

    def memoize(self) -> None:
        """Keep the value on top under the next number."""
        self.put(len(self._memo))

    def build(self) -> None:
        """Give the value on top a state."""
        state, value = self.pop(), self.top()
        if isinstance(value, PickledObject) and value is not state:
            value.pairs.append((None, state))

    def extend(self, values: list[object]) -> None:
        """Append values to a list or set."""
        value = self.top()
        if not isinstance(value, PickledObject):
            raise UnknownPickleError("it appends to what is no list")
        begin = len(value.pairs)
        value.pairs += [(begin + n, v) for n, v in enumerate(values)]

    def update(self, values: list[object]) -> None:
        """Put keys and values into a dictionary."""
        value = self.top()
        if not isinstance(value, PickledObject) or len(values) % 2:
            raise UnknownPickleError("it puts items into what is no dictionary")
        value.pairs += zip(values[::2], values[1::2], strict=True)

    def persistent(self) -> None:
        """A storage: ``("storage", class, key, device, elements)``, in older files a view more."""
        found = self.pop()
        node: object = PickledObject()
        if isinstance(found, tuple) and 5 <= len(found) <= 6 and found[0] == "storage":
            _, kind, key, _, elems = found[:5]
            if len(found) == 6 and found[5] is not None:
                raise UnknownPickleError("a view of a storage")
            if isinstance(kind, Global) and type(key) is str and _is_size(elems):
                node = Storage(kind.name.rpartition(".")[2], key, elems)
                known = self.storages.setdefault(key, node)
                if known != node:
                    self.storages[key] = None
        self.push(node)

    def call(self) -> None:
        """A tensor, or a node of the arguments."""
        args, callee = self.pop(), self.pop()
        if isinstance(callee, Global) and isinstance(args, tuple):
            made = _call(callee.name, args)
            if made is not None:
                self.push(made)
                return
        self.push(PickledObject([(None, callee), (None, args)]))


def _is_size(value: object) -> bool:
    return is_int(value, most=MAX_SIZE)


def _call(name: str, args: tuple[object, ...]) -> PickledTensor | PickledObject | None:
    """The result of a known function; None if it is not known."""
    if name == "collections.OrderedDict":
        return _dictionary(args)
    module, _, function = name.rpartition(".")
    if module != "torch._utils" or not args:
        return None
    if function in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return args[0] if isinstance(args[0], PickledTensor) else None
    if function not in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        return None
    if len(args) < 4:
        return None
    storage, offset, shape, strides = args[:4]
    dtype = ""
    if function == "_rebuild_tensor_v3":
        if len(args) < 7 or not isinstance(args[6], Global):
            return None
        dtype = args[6].name.rpartition(".")[2]
    if (
        isinstance(storage, Storage)
        and _is_size(offset)
        and isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and len(shape) == len(strides) <= MAX_DIMS
        and all(map(_is_size, (*shape, *strides)))
    ):
        return PickledTensor(storage, offset, shape, strides, dtype)  # type: ignore[arg-type]
    return None


def _dictionary(args: tuple[object, ...]) -> PickledObject | None:
    """An ``OrderedDict`` of nothing or, as Python 2 wrote it, of a list of pairs."""
    if not args:
        return PickledObject()
    pairs: list[tuple[object, object]] = []
    items = args[0].pairs if isinstance(args[0], PickledObject) else []
    for _, item in items:
        two = [v for _, v in item.pairs] if isinstance(item, PickledObject) else item
        if not isinstance(two, tuple | list) or len(two) != 2:
            return None
        pairs.append((two[0], two[1]))
    return PickledObject(pairs)


def _long(r: Pickle, width: int) -> None:
    size = r.number(width)
    if size > 64:
        raise UnknownPickleError("a number is too long")
    r.push(int.from_bytes(r.take(size), "little", signed=True))


def _stack_global(r: Pickle) -> None:
    name, module = r.pop(), r.pop()
    if type(name) is not str or type(module) is not str:
        raise UnknownPickleError("a name is no text")
    r.push(Global(f"{module}.{name}"))


def _new(r: Pickle) -> None:
    """An object of a class: NEWOBJ_EX has keyword arguments, too."""
    r.push((r.pop(), r.pop()))
    r.call()


def _drop(r: Pickle) -> None:
    r.pop()


def _drop_mark(r: Pickle) -> None:
    r.pop_mark()


def _item(r: Pickle) -> None:
    value, key = r.pop(), r.pop()
    r.update([key, value])


def _add(r: Pickle) -> None:
    values = r.pop_mark()
    r.extend(values)


def _set(r: Pickle) -> None:
    values = r.pop_mark()
    r.update(values)


def _whole(fill: Callable[[Pickle, list[object]], None]) -> Callable[[Pickle], None]:
    """A list, dictionary or set of all since the mark."""

    def step(r: Pickle) -> None:
        values = r.pop_mark()
        r.push(PickledObject())
        fill(r, values)

    return step


def _text(width: int, encoding: str) -> Callable[[Pickle], None]:
    return lambda r: r.push(r.take(r.number(width)).decode(encoding, "replace"))


def _bytes(width: int) -> Callable[[Pickle], None]:
    return lambda r: r.push(r.take(r.number(width)))


def _skip(count: int) -> Callable[[Pickle], None]:
    def step(r: Pickle) -> None:
        r.take(count)

    return step


#: The effect of each instruction. The textual ones of protocol 0 are not among them but GLOBAL.
_STEPS: dict[int, Callable[[Pickle], None]] = {
    0x80: _skip(1),  # PROTO
    0x95: _skip(8),  # FRAME
    0x28: Pickle.mark,  # MARK
    0x30: _drop,  # POP
    0x31: _drop_mark,  # POP_MARK
    0x32: lambda r: r.push(r.top()),  # DUP
    0x4E: lambda r: r.push(None),  # NONE
    0x88: lambda r: r.push(True),  # NEWTRUE
    0x89: lambda r: r.push(False),  # NEWFALSE
    0x4A: lambda r: r.push(int.from_bytes(r.take(4), "little", signed=True)),  # BININT
    0x4B: lambda r: r.push(r.number(1)),  # BININT1
    0x4D: lambda r: r.push(r.number(2)),  # BININT2
    0x8A: lambda r: _long(r, 1),  # LONG1
    0x8B: lambda r: _long(r, 4),  # LONG4
    0x47: lambda r: r.push(struct.unpack(">d", r.take(8))[0]),  # BINFLOAT
    0x54: _text(4, "latin-1"),  # BINSTRING
    0x55: _text(1, "latin-1"),  # SHORT_BINSTRING
    0x58: _text(4, "utf-8"),  # BINUNICODE
    0x8C: _text(1, "utf-8"),  # SHORT_BINUNICODE
    0x8D: _text(8, "utf-8"),  # BINUNICODE8
    0x42: _bytes(4),  # BINBYTES
    0x43: _bytes(1),  # SHORT_BINBYTES
    0x8E: _bytes(8),  # BINBYTES8
    0x96: _bytes(8),  # BYTEARRAY8
    0x29: lambda r: r.push(()),  # EMPTY_TUPLE
    0x85: lambda r: r.pop_tuple(1),  # TUPLE1
    0x86: lambda r: r.pop_tuple(2),  # TUPLE2
    0x87: lambda r: r.pop_tuple(3),  # TUPLE3
    0x74: lambda r: r.push(tuple(r.pop_mark())),  # TUPLE - pop_mark changes the stack first
    0x5D: lambda r: r.push(PickledObject()),  # EMPTY_LIST
    0x7D: lambda r: r.push(PickledObject()),  # EMPTY_DICT
    0x8F: lambda r: r.push(PickledObject()),  # EMPTY_SET
    0x6C: _whole(Pickle.extend),  # LIST
    0x64: _whole(Pickle.update),  # DICT
    0x91: _whole(Pickle.extend),  # FROZENSET
    0x61: lambda r: r.extend([r.pop()]),  # APPEND
    0x65: _add,  # APPENDS
    0x90: _add,  # ADDITEMS
    0x73: _item,  # SETITEM
    0x75: _set,  # SETITEMS
    0x63: lambda r: r.push(Global(f"{r.line()}.{r.line()}")),  # GLOBAL
    0x93: _stack_global,  # STACK_GLOBAL
    0x52: Pickle.call,  # REDUCE
    0x81: Pickle.call,  # NEWOBJ
    0x92: _new,  # NEWOBJ_EX
    0x62: Pickle.build,  # BUILD
    0x68: lambda r: r.get(r.number(1)),  # BINGET
    0x6A: lambda r: r.get(r.number(4)),  # LONG_BINGET
    0x71: lambda r: r.put(r.number(1)),  # BINPUT
    0x72: lambda r: r.put(r.number(4)),  # LONG_BINPUT
    0x94: Pickle.memoize,  # MEMOIZE
    0x51: Pickle.persistent,  # BINPERSID
}

#: Dictionaries of a module's own, which say nothing in a tensor's name.
_SILENT = {"_parameters", "_buffers", "_modules"}


def named_tensors(root: object) -> Iterator[tuple[str, PickledTensor]]:
    """All tensors below an object with their path of keys, each once, in order.

    Names look like ``state_dict.layer.0.weight``; they need not be unique.

    Raises:
        UnknownPickleError: It is nested too deep.
    """
    seen: set[int] = set()
    path: list[str] = []
    # Iterators, not recursion: a pickle may nest as deep as it is long.
    stack: list[tuple[Iterator[tuple[object, object]], int]] = [(iter([(None, root)]), 0)]
    while stack:
        pairs, depth = stack[-1]
        del path[depth:]
        for key, value in pairs:
            if not isinstance(value, PickledTensor | PickledObject | tuple) or id(value) in seen:
                continue
            seen.add(id(value))
            if type(key) in (str, int) and key not in _SILENT and depth < MAX_DEPTH:
                path.append(str(key)[:MAX_NAME])
            if not isinstance(value, PickledTensor):
                below = value.pairs if isinstance(value, PickledObject) else enumerate(value)
                stack.append((iter(below), len(path)))
                if len(stack) > MAX_NESTED:
                    raise UnknownPickleError("it is nested too deep")
                break
            yield ".".join(path)[:MAX_NAME], value
            del path[depth:]
        else:
            stack.pop()

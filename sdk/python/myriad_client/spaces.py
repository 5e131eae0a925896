"""Spaces and rows: the leaves of a space side by side, each aligned to its element, the row padded to its widest element."""
import dataclasses
import math

import flatbuffers
import numpy as np

from myriad_client import protocol_generated as p

DTYPES = [np.dtype(t) for t in ("float32", "float64", "uint8", "int32", "int64")]  # by p.DType


@dataclasses.dataclass
class Box:
    low: np.ndarray | float
    high: np.ndarray | float
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclasses.dataclass
class Discrete:
    n: int
    start: int = 0


@dataclasses.dataclass
class MultiDiscrete:
    nvec: list[int]


@dataclasses.dataclass
class MultiBinary:
    n: int


@dataclasses.dataclass
class Dict:
    spaces: dict[str, object]


@dataclasses.dataclass
class Tuple:
    spaces: list[object]


def leaves_of(space) -> list:
    """The space, or of a Dict or Tuple the spaces that are neither, in order."""
    parts = space.spaces.values() if isinstance(space, Dict) else space.spaces if isinstance(space, Tuple) else None
    return [space] if parts is None else [leaf for part in parts for leaf in leaves_of(part)]


def values_of(space, value) -> list:
    """Of each leaf, its value."""
    if isinstance(space, Dict):
        return [leaf for name, part in space.spaces.items() for leaf in values_of(part, value[name])]
    if isinstance(space, Tuple):
        return [leaf for part, element in zip(space.spaces, value, strict=True) for leaf in values_of(part, element)]
    return [value]


def value_from(space, leaves):
    """The value of `space` that has these values of its leaves, an iterator."""
    if isinstance(space, Dict):
        return {name: value_from(part, leaves) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(value_from(part, leaves) for part in space.spaces)
    return next(leaves)


def choices_of(action) -> list[int]:
    """How many options each choice has: elements of Discrete, MultiDiscrete and MultiBinary, of all leaves."""
    if isinstance(action, (Dict, Tuple)):
        return [n for leaf in leaves_of(action) for n in choices_of(leaf)]
    if isinstance(action, Discrete):
        return [action.n]
    if isinstance(action, MultiBinary):
        return [2] * action.n
    return list(action.nvec) if isinstance(action, MultiDiscrete) else []


def dtype_of(wanted) -> np.dtype:
    """The element that holds `wanted` without loss, of those the protocol has."""
    wanted = np.dtype(wanted)
    for dtype in (*[d for d in DTYPES if d == wanted], *[DTYPES[i] for i in (2, 3, 4, 0, 1)]):
        if np.can_cast(wanted, dtype):
            return dtype
    raise TypeError(f"a box of {wanted} cannot be sent: use float32, float64, uint8, int32 or int64")


class Codec:
    """Values of a space in rows of bytes, `n` of them side by side in `memory`."""

    def __init__(self, space):
        self.space = space
        self.leaves: list[tuple[int, np.dtype, tuple[int, ...]]] = []  # offset, element, shape
        self.row_bytes = 0
        self._lay_out(space)
        widest = max(dtype.itemsize for _, dtype, _ in self.leaves)
        self.row_bytes = -(-self.row_bytes // widest) * widest

    def _lay_out(self, space) -> None:
        if isinstance(space, Dict):
            for part in space.spaces.values():
                self._lay_out(part)
        elif isinstance(space, Tuple):
            for part in space.spaces:
                self._lay_out(part)
        else:
            dtype, shape = np.dtype("int32"), (1,)
            if isinstance(space, Box):
                dtype, shape = dtype_of(space.dtype), tuple(space.shape)
            elif isinstance(space, MultiDiscrete):
                shape = (len(space.nvec),)
            elif isinstance(space, MultiBinary):
                shape = (space.n,)
            offset = -(-self.row_bytes // dtype.itemsize) * dtype.itemsize
            self.leaves.append((offset, dtype, shape))
            self.row_bytes = offset + math.prod(shape) * dtype.itemsize

    def views(self, memory, n: int) -> list:
        """Of each row, its leaves as arrays in `memory`: what `write` and `read` want."""
        rows = []
        for i in range(n):
            start = i * self.row_bytes
            rows.append([np.frombuffer(memory, dtype, math.prod(shape), start + offset).reshape(shape)
                         for offset, dtype, shape in self.leaves])
        return rows

    def write(self, leaves: list, value) -> None:
        if len(self.leaves) == 1 and not isinstance(self.space, (Dict, Tuple)):
            leaves[0][...] = value
        else:
            self._write(self.space, iter(leaves), value)

    def _write(self, space, leaves, value) -> None:
        if isinstance(space, Dict):
            for name, part in space.spaces.items():
                self._write(part, leaves, value[name])
        elif isinstance(space, Tuple):
            for part, element in zip(space.spaces, value, strict=True):
                self._write(part, leaves, element)
        else:
            next(leaves)[...] = value

    def read(self, leaves: list):
        return self._read(self.space, iter(leaves))

    def _read(self, space, leaves):
        if isinstance(space, Dict):
            return {name: self._read(part, leaves) for name, part in space.spaces.items()}
        if isinstance(space, Tuple):
            return tuple(self._read(part, leaves) for part in space.spaces)
        leaf = next(leaves)
        if isinstance(space, Discrete):
            return int(leaf[0])
        return leaf.astype(space.dtype) if isinstance(space, Box) else leaf.copy()


def build(b: flatbuffers.Builder, space) -> int:
    """The space as a table of the message that is being built."""
    names = parts = shape = low = high = nvec = None
    if isinstance(space, (Dict, Tuple)):
        spaces = space.spaces.values() if isinstance(space, Dict) else space.spaces
        parts = vector(b, [build(b, part) for part in spaces], p.SpaceStartSpacesVector, b.PrependUOffsetTRelative)
    if isinstance(space, Dict):
        names = vector(b, [b.CreateString(name) for name in space.spaces], p.SpaceStartNamesVector, b.PrependUOffsetTRelative)
    if isinstance(space, Box):
        bounds = lambda x: [float(x)] if np.ndim(x) == 0 else np.asarray(x, np.float64).ravel().tolist()
        shape = vector(b, list(space.shape), p.SpaceStartShapeVector, b.PrependInt32)
        low = vector(b, bounds(space.low), p.SpaceStartLowVector, b.PrependFloat64)
        high = vector(b, bounds(space.high), p.SpaceStartHighVector, b.PrependFloat64)
    if isinstance(space, MultiDiscrete):
        nvec = vector(b, [int(n) for n in space.nvec], p.SpaceStartNvecVector, b.PrependInt32)
    p.SpaceStart(b)
    p.SpaceAddKind(b, getattr(p.SpaceKind, type(space).__name__))
    if isinstance(space, Box):
        p.SpaceAddDtype(b, DTYPES.index(dtype_of(space.dtype)))
        p.SpaceAddShape(b, shape), p.SpaceAddLow(b, low), p.SpaceAddHigh(b, high)
    if isinstance(space, (Discrete, MultiBinary)):
        p.SpaceAddN(b, int(space.n))
    if isinstance(space, Discrete):
        p.SpaceAddStart(b, int(space.start))
    if nvec is not None:
        p.SpaceAddNvec(b, nvec)
    if names is not None:
        p.SpaceAddNames(b, names)
    if parts is not None:
        p.SpaceAddSpaces(b, parts)
    return p.SpaceEnd(b)


def vector(b: flatbuffers.Builder, items: list, start, prepend) -> int:
    start(b, len(items))
    for item in reversed(items):
        prepend(item)
    return b.EndVector()

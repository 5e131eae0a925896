"""Spaces and rows: the leaves of a space side by side, each aligned to its element, the row padded to its widest element.

A value goes into a row only where nothing of it is lost: shapes are equal, whole numbers stay what they are, and what is left out of
a Dict, or is too much in it, is named. Rounding to the space's float type is no loss.
"""
import collections.abc
import dataclasses
import math
import operator

import flatbuffers
import numpy as np

from myriad_client import protocol_generated as p

DTYPES = [np.dtype(t) for t in ("float32", "float64", "uint8", "int32", "int64")]  # by p.DType
FLOAT64, INT32 = DTYPES[1], DTYPES[3]
# What is converted to these elements without a look at the values.
KEPT = {dtype: frozenset(np.dtype(t) for t in np.typecodes["AllInteger"] + "?efd" if np.can_cast(t, dtype)) for dtype in DTYPES}
MOST_FEATURES = 1 << 26  # of one space, as rl/space.hpp
UNBOUNDED = 1e30  # bounds from here on are none, as in rl/space.cpp
LARGEST = float(np.finfo(np.float32).max)


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
    nvec: list  # nested where it has several dimensions
    start: list | None = None  # the least values, of the same shape; None: 0

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.nvec)


@dataclasses.dataclass
class MultiBinary:
    n: int | tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in np.ravel(self.n))


@dataclasses.dataclass
class Dict:
    spaces: dict[str, object]


@dataclasses.dataclass
class Tuple:
    spaces: list[object]


class DoesNotFit(ValueError):
    """A value that is not of its space; the text names the leaf."""


def leaves_of(space) -> list:
    """The space, or of a Dict or Tuple the spaces that are neither, in order."""
    parts = space.spaces.values() if isinstance(space, Dict) else space.spaces if isinstance(space, Tuple) else None
    return [space] if parts is None else [leaf for part in parts for leaf in leaves_of(part)]


def values_of(space, value, path: str = "action") -> list:
    """Of each leaf, its value."""
    if isinstance(space, Dict):
        return [leaf for name, own in keys_of(space, value, path) for leaf in values_of(space.spaces[name], value[own], below(path, name))]
    if isinstance(space, Tuple):
        return [leaf for i, (part, element) in enumerate(elements_of(space, value, path)) for leaf in values_of(part, element, below(path, i))]
    return [value]


def value_from(space, leaves):
    """The value of `space` that has these values of its leaves, an iterator."""
    if isinstance(space, Dict):
        return {name: value_from(part, leaves) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(value_from(part, leaves) for part in space.spaces)
    return next(leaves)


def choices_of(action) -> list[int]:
    """How many options each choice has: elements of Discrete, MultiDiscrete, MultiBinary and Boxes of whole numbers, of all leaves."""
    if isinstance(action, (Dict, Tuple)):
        return [n for leaf in leaves_of(action) for n in choices_of(leaf)]
    if isinstance(action, Discrete):
        return [action.n]
    if isinstance(action, MultiBinary):
        return [2] * math.prod(action.shape)
    if isinstance(action, MultiDiscrete):
        return [int(n) for n in np.ravel(action.nvec)]
    return [int(high - low) + 1 for low, high in zip(*map(np.ravel, bounds_of(action)))] if is_whole(action) else []


def is_whole(space) -> bool:
    """Whether it is a Box of whole numbers, which a policy takes for choices."""
    return isinstance(space, Box) and element_of(space).kind in "iu"


def starts_of(space) -> np.ndarray:
    """The least value of each choice of a leaf, in one row."""
    if isinstance(space, Box):
        return np.ravel(bounds_of(space)[0]).astype(np.int64)
    if isinstance(space, Discrete):
        return np.array([space.start])
    start = space.start if isinstance(space, MultiDiscrete) else None
    return np.zeros(math.prod(space.shape), np.int64) if start is None else np.ravel(start)


def bounds_of(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Of each element; infinite where there is none."""
    low, high = (np.broadcast_to(np.asarray(x, np.float64), box.shape) for x in (box.low, box.high))
    if is_whole(box):
        return low, high
    return np.where(low <= -UNBOUNDED, -math.inf, low), np.where(high >= UNBOUNDED, math.inf, high)


def element_of(box: Box) -> np.dtype:
    """The element that holds a Box's values, of those the protocol has."""
    wanted = np.dtype(box.dtype)
    if wanted == np.uint64 and np.max(box.high, initial=0) < 2.0**63:
        return DTYPES[4]
    return dtype_of(wanted)


def dtype_of(wanted) -> np.dtype:
    """The element that holds `wanted` without loss, of those the protocol has."""
    wanted = np.dtype(wanted)
    for dtype in (*[d for d in DTYPES if d == wanted], *[DTYPES[i] for i in (2, 3, 4, 0, 1)]):
        if np.can_cast(wanted, dtype):
            return dtype
    raise TypeError(f"a box of {wanted} cannot be sent: use float32, float64, or integers of any size")


# --- values that do not fit ---

def below(path: str, name) -> str:
    """The path of a part: "obs.camera/left"."""
    return f"{path}{'/' if '.' in path else '.'}{name}"


def kind_of(value) -> str:
    """What a value is, for people."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, collections.abc.Mapping):
        return f"a dict of {', '.join(map(repr, value))}" if value else "an empty dict"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"{value!r:.40} ({type(value).__name__})"


def keys_of(space: Dict, value, path: str) -> list[tuple]:
    """The keys of the space, each with that of the value: a key that is no string may have become one."""
    if not isinstance(value, collections.abc.Mapping):
        raise DoesNotFit(f"{path}: {kind_of(value)}, want a dict of {', '.join(map(repr, space.spaces))}")
    if len(value) == len(space.spaces) and all(name in value for name in space.spaces):
        return [(name, name) for name in space.spaces]
    own = {str(name): name for name in value}
    for name in space.spaces:
        if str(name) not in own:
            raise DoesNotFit(f"{path}: a dict without {name!r}; it has {', '.join(map(repr, value)) or 'nothing'}")
    known = {str(name) for name in space.spaces}
    for text, name in own.items():
        if text not in known:
            raise DoesNotFit(f"{path}: a dict with {name!r}, which its space has not: that has {', '.join(map(repr, space.spaces))}")
    return [(name, own[str(name)]) for name in space.spaces]


def elements_of(space: Tuple, value, path: str) -> list[tuple]:
    """The parts, each with its element."""
    if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
        raise DoesNotFit(f"{path}: {kind_of(value)}, want a tuple of {len(space.spaces)}")
    return list(zip(space.spaces, value))


class Leaf:
    """A leaf of a space in a row: where it lies, what it is made of."""

    def __init__(self, space, path: str, dtype: np.dtype, shape: tuple[int, ...], offset: int):
        self.space, self.path, self.dtype, self.shape, self.offset = space, path, dtype, shape, offset
        self.is_discrete, self.kept, self.is_float32 = isinstance(space, Discrete), KEPT[dtype], dtype == np.float32
        self.is_short = len(shape) == 1 and shape[0] <= 32

    def __iter__(self):
        return iter((self.offset, self.dtype, self.shape))

    def write(self, view: np.ndarray, value) -> None:
        """Raises DoesNotFit, and then has perhaps written a part."""
        if type(value) is np.ndarray and value.dtype is self.dtype and value.shape == self.shape:
            view[...] = value
        elif self.is_discrete:
            view[0] = self.integer(value)
        elif not self.is_float32:
            view[...] = self.converted(value)
        else:
            array = self.shaped(value)
            view[...] = array
            # Of few numbers the sum is the quicker look; of many, a sum of squares that BLAS adds up.
            if not (math.isfinite(sum(view.tolist())) if self.is_short else array.dtype in self.kept or np.vdot(array, array) < LARGEST**2 / 2):
                huge = np.isfinite(array) & (np.abs(array) > LARGEST)
                if huge.any():
                    self.fail(array, huge, "is beyond float32")

    def integer(self, value) -> int:
        """The one number of a Discrete."""
        try:
            number = operator.index(value)
        except TypeError:
            array = self.array(value)
            if array.size != 1:
                raise DoesNotFit(f"{self.path}: {kind_of(value)}, want one integer") from None
            number = self.kept_in(array.reshape(-1), np.dtype("int64")).item()
        if not -1 << 31 <= number < 1 << 31:
            raise DoesNotFit(f"{self.path} = {number} is beyond int32")
        return number

    def array(self, value) -> np.ndarray:
        try:
            array = np.asarray(value)
        except Exception as error:  # lists of unlike lengths; what another library raises
            raise DoesNotFit(f"{self.path}: {kind_of(value)} is no array of {self.dtype} ({str(error).split('.')[0]})") from None
        if array.dtype.kind not in "biuf":
            what = kind_of(value) if array.ndim == 0 else f"an array of {'objects' if array.dtype.kind == 'O' else array.dtype}"
            raise DoesNotFit(f"{self.path}: {what}, want numbers of {self.dtype}")
        return array

    def shaped(self, value) -> np.ndarray:
        array = value if type(value) is np.ndarray and (value.dtype is FLOAT64 and self.is_float32 or value.dtype in self.kept) else self.array(value)
        if array.shape != self.shape:
            what = kind_of(value) if isinstance(value, np.ndarray) else f"{kind_of(value)}, of shape {array.shape}"
            raise DoesNotFit(f"{self.path}: {what}, want shape {self.shape}")
        return array

    def converted(self, value) -> np.ndarray:
        """An array that can be copied into the row of float64 or of integers."""
        array = self.shaped(value)
        return array if array.dtype in self.kept or self.dtype.kind == "f" else self.kept_in(array, self.dtype)

    def kept_in(self, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """`array` in an integer type."""
        with np.errstate(invalid="ignore"):
            converted = array.astype(dtype)
            same = converted == array
        if not same.all():
            whole = array.dtype.kind != "f" or (np.isfinite(array) & (array == np.floor(array))).all()
            limits = np.iinfo(dtype)
            self.fail(array, ~same, f"is outside {dtype}, which is {limits.min} to {limits.max}" if whole else
                      "is no whole number" + ("" if self.is_discrete else f", as {dtype} wants it: round it, or declare the space as float32"))
        return converted

    def fail(self, array: np.ndarray, wrong: np.ndarray, what: str):
        index = np.argwhere(wrong)[0].tolist() if array.ndim else []
        where = f"[{', '.join(map(str, index))}]" if index and not self.is_discrete else ""
        raise DoesNotFit(f"{self.path}{where} = {array[tuple(index)].item()} {what}")


class Codec:
    """Values of a space in rows of bytes, `n` of them side by side in `memory`. `name`: what errors call the space."""

    def __init__(self, space, name: str = "obs"):
        self.space, self.name = space, name
        self.leaves: list[Leaf] = []
        self.row_bytes = 0
        check_space(space, name)
        self._lay_out(space, name)
        widest = max(leaf.dtype.itemsize for leaf in self.leaves)
        self.row_bytes = -(-self.row_bytes // widest) * widest
        self._only = self.leaves[0] if not isinstance(space, (Dict, Tuple)) else None

    def _lay_out(self, space, path: str) -> None:
        if isinstance(space, (Dict, Tuple)):
            for name, part in space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces):
                self._lay_out(part, below(path, name))
        else:
            dtype = element_of(space) if isinstance(space, Box) else INT32
            shape = (1,) if isinstance(space, Discrete) else tuple(space.shape)
            offset = -(-self.row_bytes // dtype.itemsize) * dtype.itemsize
            self.leaves.append(Leaf(space, path, dtype, shape, offset))
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
        """Raises DoesNotFit for a value that is not of the space, whose row then is of no use."""
        only = self._only
        if only is not None:
            if type(value) is np.ndarray and value.dtype is only.dtype and value.shape == only.shape:
                leaves[0][...] = value
            else:
                only.write(leaves[0], value)
        else:
            for view, leaf, own in zip(leaves, self.leaves, values_of(self.space, value, self.name)):
                leaf.write(view, own)

    def converted(self, value) -> list[np.ndarray]:
        """Of each leaf, its value as it lies in a row."""
        row = self.views(bytearray(self.row_bytes), 1)[0]
        self.write(row, value)
        return row

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


# --- spaces that cannot be sent ---

def check_space(space, path: str) -> None:
    """Raises TypeError or ValueError for what Myriad cannot take, with the leaf's path."""
    features, seen = 0, set()
    for leaf, at in paths_of(space, path):
        if at in seen:
            raise ValueError(f"{path}: two parts have the path {at!r}: give one of them another name")
        seen.add(at)
        refuse = lambda why: ValueError(f"{at}: {short(leaf)} {why}")
        if not isinstance(leaf, (Box, Discrete, MultiDiscrete, MultiBinary)):
            raise TypeError(f"{at}: {leaf!r:.80} is no space: want a Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple of myriad_client "
                            "(myriad_client.gymnasium.space_of makes one of Gymnasium's)")
        sizes = () if isinstance(leaf, Discrete) else tuple(leaf.shape)
        if not all(int(size) == size and size >= 0 for size in sizes):
            raise refuse(f"has a shape of {sizes}")
        if math.prod(sizes) == 0 or isinstance(leaf, (MultiBinary, MultiDiscrete)) and not sizes:
            raise refuse(f"has no element: {leave_out(at)}")
        if isinstance(leaf, Box):
            try:
                low, high = bounds_of(leaf)
                element = element_of(leaf)
            except (TypeError, ValueError) as error:
                raise refuse(f"cannot be sent: {error}") from None
            if np.dtype(leaf.dtype).kind in "iu" and element.kind == "f" and at.startswith("action"):
                raise refuse("has values beyond int64, and a policy chooses among 65,536 at most")
            if not (low <= high).all():
                raise refuse("has a low above its high, or a bound that is no number")
            features += low.size
            continue
        options = choices_of(leaf)
        starts = starts_of(leaf)
        if len(starts) != len(options):
            raise refuse(f"has {len(starts)} starts, want {len(options)}")
        for i, (n, start) in enumerate(zip(options, starts.tolist())):
            element = "" if isinstance(leaf, Discrete) else f" at element {i}"
            if not 1 <= n <= MOST_FEATURES:
                raise refuse(f"has {n:,} values{element}, each a feature of the network (one-hot), at most {MOST_FEATURES:,}: make it a Box of numbers, "
                             "or several smaller ones")
            if not -1 << 31 <= start < (1 << 31) - n:
                raise refuse(f"begins at {start:,}{element}, and its values are beyond int32: shift them")
        features += len(options) if isinstance(leaf, MultiBinary) else sum(options)
    if features == 0:
        raise ValueError(f"{path}: {short(space)} has no part: nothing is seen or done")
    if features > MOST_FEATURES:
        raise ValueError(f"{path}: {short(space)} has {features:,} features (a Discrete's values are one each), at most {MOST_FEATURES:,}")


def leave_out(path: str) -> str:
    root, _, part = path.partition(".")
    return "leave it out" + (f" (gymnasium:ID?drop={part})" if part and root == "obs" else "")


def short(space) -> str:
    """A space for people."""
    text = " ".join(repr(space).split())
    return text if len(text) <= 120 else text[:117] + "..."


def paths_of(space, path: str):
    """The leaves with their paths."""
    if not isinstance(space, (Dict, Tuple)):
        yield space, path
        return
    if not space.spaces:
        raise ValueError(f"{path}: an empty {type(space).__name__} has no part: {leave_out(path)}")
    if isinstance(space, Dict):
        names = [str(name) for name in space.spaces]
        for i, name in enumerate(names):
            if not name or not name.isprintable() or name in names[:i]:
                raise ValueError(f"{path}: a Dict with the key {list(space.spaces)[i]!r}, which {'is empty' if not name else 'cannot be printed' if name not in names[:i] else 'is there twice as text'}: "
                                 "give it another name")
    for name, part in space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces):
        yield from paths_of(part, below(path, name))


def build(b: flatbuffers.Builder, space) -> int:
    """The space as a table of the message that is being built."""
    names = parts = shape = low = high = nvec = starts = None
    if isinstance(space, (Dict, Tuple)):
        spaces = space.spaces.values() if isinstance(space, Dict) else space.spaces
        parts = vector(b, [build(b, part) for part in spaces], p.SpaceStartSpacesVector, b.PrependUOffsetTRelative)
    if isinstance(space, Dict):
        names = vector(b, [b.CreateString(str(name)) for name in space.spaces], p.SpaceStartNamesVector, b.PrependUOffsetTRelative)
    if isinstance(space, Box):
        bounds = lambda x: [float(x)] if np.ndim(x) == 0 else np.broadcast_to(np.asarray(x, np.float64), space.shape).ravel().tolist()
        shape = vector(b, [int(size) for size in space.shape], p.SpaceStartShapeVector, b.PrependInt32)
        low = vector(b, bounds(space.low), p.SpaceStartLowVector, b.PrependFloat64)
        high = vector(b, bounds(space.high), p.SpaceStartHighVector, b.PrependFloat64)
    if isinstance(space, (MultiDiscrete, MultiBinary)) and len(space.shape) > 1:
        shape = vector(b, list(space.shape), p.SpaceStartShapeVector, b.PrependInt32)
    if isinstance(space, MultiDiscrete):
        nvec = vector(b, choices_of(space), p.SpaceStartNvecVector, b.PrependInt32)
        if starts_of(space).any():
            starts = vector(b, [int(start) for start in starts_of(space)], p.SpaceStartStartsVector, b.PrependInt32)
    p.SpaceStart(b)
    p.SpaceAddKind(b, getattr(p.SpaceKind, type(space).__name__))
    if isinstance(space, Box):
        p.SpaceAddDtype(b, DTYPES.index(element_of(space)))
        p.SpaceAddLow(b, low), p.SpaceAddHigh(b, high)
    if shape is not None:
        p.SpaceAddShape(b, shape)
    if isinstance(space, Discrete):
        p.SpaceAddN(b, int(space.n)), p.SpaceAddStart(b, int(space.start))
    if isinstance(space, MultiBinary):
        p.SpaceAddN(b, math.prod(space.shape))
    if nvec is not None:
        p.SpaceAddNvec(b, nvec)
    if starts is not None:
        p.SpaceAddStarts(b, starts)
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

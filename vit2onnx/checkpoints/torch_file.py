"""The tensors of a file that torch has written, read without torch. Nothing that a pickle names is imported or run.

Standard library only, because the Snakefile imports this module.
"""

import itertools
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from vit2onnx.checkpoints.head import BYTES, LONGEST_HEAD, MOST_TENSORS, Head, Shape, damaged
from vit2onnx.checkpoints.zip_file import Record
from vit2onnx.errors import InputError

# How torch's files began before 1.6; today they are zips.
PICKLE = b"\x80"
# Numpy's names for the dtypes of torch's typed storages.
STORAGES = {
    **{"FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16"},
    **{"LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8"},
    **{"ByteStorage": "uint8", "BoolStorage": "bool"},
    **{"QInt8Storage": "int8", "QUInt8Storage": "uint8", "QInt32Storage": "int32"},
}
# The number of a pickle's steps bounds the memory that it can ask for.
MOST_STEPS, DEEPEST, MOST_OTHERS = 1_000_000, 12, 100


@dataclass(frozen=True)
class _Storage:
    """A place in a file with a tensor's numbers, as a pickle names it."""

    key: str
    dtype: str | None
    numel: int


@dataclass(frozen=True)
class _Tensor:
    """A tensor as a pickle describes it. `fault` says why it cannot be read, if so."""

    storage: _Storage | None
    offset: int = 0
    shape: Shape = ()
    strides: Shape = ()
    fault: str = ""


class _Mapping(dict[Any, Any]):
    """An ordered mapping, which may have attributes, as a state_dict has."""


class _Other:
    """Stands for every object that is no tensor. A pickle can do anything to it, and nothing happens."""

    name = "an object"

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> "_Other":
        return self

    def append(self, _: Any) -> None:
        """As a list's."""

    def extend(self, _: Any) -> None:
        """As a list's."""

    def add(self, _: Any) -> None:
        """As a set's."""


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
    """Takes the place of torch's `_rebuild_tensor_v2` and `_rebuild_tensor_v3`."""
    if not isinstance(storage, _Storage):
        return _Tensor(None, fault="without values")
    numbers = [offset, *shape, *strides]
    if len(shape) != len(strides) or not all(type(number) is int and number >= 0 for number in numbers):
        return _Tensor(None, fault="damaged")
    dtype = next((one.dtype for one in rest if isinstance(one, _Dtype)), None)
    if dtype:
        storage = _Storage(storage.key, dtype, storage.numel // BYTES.get(dtype, 1))
    flags = next((one for one in rest[2:] if isinstance(one, dict) and one), {})
    return _Tensor(storage, offset, tuple(shape), tuple(strides), "negated or conjugated" if flags else "")


@dataclass(frozen=True)
class _Dtype:
    dtype: str


def _unreadable(what: str) -> Callable[..., _Tensor]:
    return lambda *_, **__: _Tensor(None, fault=what)


def _first(value: Any, *_: Any) -> Any:
    """A parameter is its tensor."""
    return value


def _of_type(build: Any, _: Any, args: Any, *__: Any) -> Any:
    """A tensor of a subclass is what `build` makes, if that is one of the functions here."""
    known = build in (_tensor, _first) and isinstance(args, tuple)
    return build(*args) if known else _Tensor(None, fault="of a type of its own")


# The only functions that a pickle can call, by the names that torch gives them. All are harmless.
BUILDERS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Mapping,
    ("collections", "defaultdict"): lambda *_: _Mapping(),
    ("torch", "Size"): lambda sizes=(): tuple(sizes),
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch._utils", "_rebuild_qtensor"): _unreadable("quantized"),
    ("torch._utils", "_rebuild_sparse_tensor"): _unreadable("sparse"),
    ("torch._utils", "_rebuild_sparse_csr_tensor"): _unreadable("sparse"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _unreadable("without values"),
    ("torch._utils", "_rebuild_nested_tensor"): _unreadable("nested"),
    ("torch._utils", "_rebuild_wrapper_subclass"): _unreadable("of a type of its own"),
}


# The unpickler that is written in Python. Not the one in C, because that allocates its memo up to any index that a
# pickle names.
class _Unpickler(pickle._Unpickler):
    """Reads what torch has pickled. Of what a pickle names, nothing is imported and nothing runs.

    `storages` gets the dtype of every storage by its key.
    """

    def __init__(self, file: Any, storages: dict[str, str | None]):
        super().__init__(file)
        self.storages = storages
        self.others: dict[tuple[str, str], type[_Other]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in BUILDERS:
            return BUILDERS[module, name]
        if module in ("torch", "torch.storage") and name in STORAGES:
            return _Dtype(STORAGES[name])
        if module == "torch" and name in BYTES:
            return _Dtype(name)
        # A class of its own for each name takes a kilobyte, so only the first have one.
        if (module, name) not in self.others and len(self.others) < MOST_OTHERS:
            self.others[module, name] = type("Other", (_Other,), {"name": f"{module}.{name}"})
        return self.others.get((module, name), _Other)

    def persistent_load(self, pid: Any) -> Any:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and type(pid[4]) is int):
            raise pickle.UnpicklingError("an unknown persistent id")
        kind, numel = pid[1], pid[4]
        # A view, which torch wrote before 1.6.
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("a view of a storage")
        # Without a type it is counted in bytes, and the tensor has the dtype.
        storage = _Storage(str(pid[2]), kind.dtype if isinstance(kind, _Dtype) else None, numel)
        self.storages[storage.key] = storage.dtype
        return storage


class _Steady:
    """A file of which only a little can be read at once."""

    def __init__(self, file: IO[bytes]):
        self.file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_HEAD:
            raise pickle.UnpicklingError("too long")
        return self.file.read(size)

    def readline(self) -> bytes:
        return self.file.readline(1 << 16)


def _unpickle(file: IO[bytes], storages: dict[str, str | None]) -> Any:
    """The next pickle of a file, whose position moves behind it."""
    start = file.tell()
    for step, _ in enumerate(pickletools.genops(_Steady(file))):  # type: ignore[arg-type]
        if step > MOST_STEPS or file.tell() - start > LONGEST_HEAD:
            raise pickle.UnpicklingError("too long")
    end = file.tell()
    file.seek(start)
    found = _Unpickler(_Steady(file), storages).load()
    file.seek(end)
    return found


def _pickled(path: Path, file: IO[bytes], storages: dict[str, str | None] | None = None) -> Any:
    try:
        return _unpickle(file, {} if storages is None else storages)
    # Any exception, because what is raised depends on which byte is broken.
    except Exception as error:
        raise damaged(path, f"its pickle is none that torch writes: {type(error).__name__}") from None


def read_zip(path: Path, records: Mapping[str, Record]) -> dict[str, Head]:
    """A file of torch of today: a zip with a pickle and the numbers of each storage."""
    folders = {name.partition("/")[0] for name in records}
    (folder,) = folders if len(folders) == 1 else ("",)
    if any(name.startswith(f"{folder}/code/") for name in records):
        _refuse_program(path, "a TorchScript program")
    if f"{folder}/data.pkl" not in records:
        raise InputError(f"{path} is a zip without a PyTorch checkpoint; unpack it and name the checkpoint in it.")
    order, start = records.get(f"{folder}/byteorder"), records[f"{folder}/data.pkl"]
    for name, record in records.items():
        if record.offset is None and (name.startswith(f"{folder}/data/") or record in (order, start)):
            raise InputError(
                f"{path} was packed anew with compression, so its tensors cannot be read in place; give the file as"
                " its publisher offers it, or load and save it once with torch."
            )
    with path.open("rb") as file:
        if order:
            file.seek(order.offset or 0)
            # A longer record is no byte order.
            if file.read(min(order.size, 16)) not in (b"little", b""):
                raise InputError(f"{path} was written on a big-endian machine; save it again on a usual one.")
        if start.size > LONGEST_HEAD:
            raise damaged(path, f"its pickle is {start.size} bytes long")
        file.seek(start.offset or 0)
        data = _pickled(path, file)

    def place(storage: _Storage) -> tuple[int, int]:
        record = records.get(f"{folder}/data/{storage.key}")
        if record is None or record.offset is None:
            raise damaged(path, f"it lacks record data/{storage.key}")
        return record.offset, record.size

    return dict(_tensors(path, data, place))


# What stands at the start of a file of torch before 1.6.
MAGIC = 0x1950A86A20F9469CFC6C


def read_legacy(path: Path) -> dict[str, Head]:
    """A file of torch before 1.6: pickles one after the other, then the numbers of all storages."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = _pickled(path, file)
        if first != MAGIC:
            return dict(_tensors(path, first, lambda _: _no_values(path)))
        storages: dict[str, str | None] = {}
        version, system, data, keys = (_pickled(path, file, storages) for _ in range(4))
        if version != 1001 or not isinstance(system, dict) or not isinstance(keys, list):
            raise damaged(path, "its head is none of torch's")
        if not system.get("little_endian", True):
            raise InputError(f"{path} was written on a big-endian machine; save it again on a usual one.")
        start = file.tell()
    places: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        for key in map(str, keys):
            dtype = storages.get(key)
            if dtype is None or start + 8 > size:
                raise damaged(path, f"storage {key} is missing or of an unknown type")
            file.seek(start)
            count = int.from_bytes(file.read(8), "little")
            places[key] = start + 8, count * BYTES[dtype]
            start = sum(places[key])
    if start > size:
        raise damaged(path, f"it should be {start} bytes long and is {size}")

    def place(storage: _Storage) -> tuple[int, int]:
        if storage.key not in places:
            raise damaged(path, f"it lacks storage {storage.key}")
        return places[storage.key]

    return dict(_tensors(path, data, place))


def _no_values(path: Path) -> NoReturn:
    raise damaged(path, "it holds no values")


def _refuse_program(path: Path, what: str) -> NoReturn:
    raise InputError(
        f"{path} is {what}, which would have to be run; save only its weights:"
        " torch.save(model.state_dict(), 'weights.pth')."
    )


def _tensors(path: Path, data: Any, place: Callable[[_Storage], tuple[int, int]]) -> Iterator[tuple[str, Head]]:
    """The tensors of a tree of mappings, by their paths; `place` says where a storage begins and how long it is."""
    if isinstance(data, _Other):
        _refuse_program(path, f"a pickled Python object ({data.name})")
    if isinstance(data, _Tensor) or not isinstance(data, dict):
        raise InputError(f"{path} holds no mapping of names to tensors; save a model's state_dict().")
    seen = set()
    for group, name, tensor in _walk(path, data, (), itertools.count()):
        whole = f"{group}.{name}" if group else name
        if whole in seen:
            raise damaged(path, f"tensor {whole} is there twice")
        seen.add(whole)
        yield whole, _head(path, group, name, tensor, place)


def _walk(
    path: Path, data: Mapping[Any, Any], group: tuple[str, ...], count: Iterator[int]
) -> Iterator[tuple[str, str, _Tensor]]:
    """Every tensor with the path of the mapping that it is in, and its name there; `count` counts the steps."""
    for key, value in data.items():
        # One mapping can be in others many times, so a short pickle can name more tensors than fit into memory.
        if next(count) > MOST_TENSORS:
            raise damaged(path, f"it names more than {MOST_TENSORS} tensors and other objects")
        if isinstance(value, _Tensor):
            yield ".".join(group), str(key), value
        elif isinstance(value, Mapping) and len(group) < DEEPEST:
            yield from _walk(path, value, (*group, str(key)), count)


def _head(path: Path, group: str, name: str, tensor: _Tensor, place: Callable[[_Storage], tuple[int, int]]) -> Head:
    storage = tensor.storage
    if tensor.fault or storage is None or storage.dtype is None:
        # No error yet, because it may not be needed. Whoever reads it raises one.
        return Head(path, tensor.shape, tensor.fault or "unknown", -1, group=group)
    contiguous: list[int] = []
    stride = 1
    for size in reversed(tensor.shape):
        contiguous.insert(0, stride)
        stride *= size
    # The stride of an axis of size one does not matter.
    in_order = all(s in (1, 0) or a == b for s, a, b in zip(tensor.shape, tensor.strides, contiguous, strict=True))
    strides = None if in_order or 0 in tensor.shape else tensor.strides
    begin, size = place(storage)
    item = BYTES[storage.dtype]
    head = Head(path, tensor.shape, storage.dtype, begin + tensor.offset * item, strides, group)
    if (tensor.offset + head.extent) * item > size:
        raise damaged(path, f"tensor {name} goes beyond its storage")
    return head

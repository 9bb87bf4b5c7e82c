"""Where a tensor lies in a file, and the bounds on what is read to find that out.

Standard library only, because the Snakefile imports this module.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from vit2onnx.errors import InputError

Shape = tuple[int, ...]

# The bytes of an element, by numpy's names of dtypes.
BYTES = {
    **{"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1},
    **{f"{kind}{bits}": bits // 8 for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
# The longest description of tensors that is read: the header of safetensors, the pickle of torch, or a zip's list of
# records. DINOv3 7B's takes 80 kB.
LONGEST_HEAD, MOST_TENSORS = 8 << 20, 100_000


@dataclass(frozen=True)
class Head:
    """Where a tensor lies: in which file, from which byte on. `strides` are given if it is not in C order.

    A tensor that cannot be read has a negative `offset`, and the reason in place of its `dtype`. `group` is the path of
    the mapping that holds the tensor, as `model` in `{"model": {"norm.weight": …}}`.
    """

    file: Path
    shape: Shape
    dtype: str
    offset: int
    strides: Shape | None = None
    group: str = ""

    @property
    def extent(self) -> int:
        """The number of elements from the tensor's first to its last in the file."""
        if self.strides is None or 0 in self.shape:
            return math.prod(self.shape)
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


def damaged(path: Path, why: str) -> InputError:
    """The error for a file that is not as it was written."""
    return InputError(f"{path} is damaged or truncated ({why}); download or copy the checkpoint again.")

"""What is compared: which image at which size. Standard library only, because the Snakefile imports it."""

from collections.abc import Iterable
from dataclasses import dataclass

from vit2onnx.variants import ExportSpec


@dataclass(frozen=True, order=True)
class Case:
    """One image at one size in pixels; written `name@heightxwidth` in files."""

    image: str
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.image}@{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> "Case":
        image, _, size = text.rpartition("@")
        height, _, width = size.partition("x")
        return cls(image, int(height), int(width))


def sizes_of(exports: Iterable[ExportSpec], sizes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sizes at which something is compared: those listed, as far as an export accepts them, and the fixed ones."""
    exports = list(exports)
    fixed = {(e.height, e.width) for e in exports if e.height is not None and e.width is not None}
    listed = {size for size in sizes if any(e.accepts(*size) for e in exports)}
    return sorted(fixed | listed)

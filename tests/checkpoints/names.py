"""How names and shapes of published files are written by hand."""

Shapes = dict[str, tuple[int, ...]]


def affine(name: str, *weight: int) -> Shapes:
    """A weight and a bias that is as long as the weight's first axis."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}

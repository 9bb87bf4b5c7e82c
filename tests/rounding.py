"""How far rounding takes numbers from the truth, for tests to judge.

Only ever the root mean square of many numbers. The largest of their errors is a matter of chance, and another
processor's kernels, which add in another order, give other errors.
"""

import numpy as np
from numpy.typing import ArrayLike

from vit2onnx.parity.floors import UNIT, error, rms

# How many floors a right implementation may be from the truth. Measured with AVX-512, AVX2 and SSE4: 1.2 at most for
# the features of a model, and 2.3 for a layer or a primitive. There the limit is wider, because all depends on one
# kernel's way of adding: 768 products are 4.3 units in the last place away if added one by one, and in blocks one.
MODEL_LIMIT = 2
LAYER_LIMIT = 5


def floors(found: ArrayLike, truth: ArrayLike, single: ArrayLike | None = None) -> float:
    """How far `found` is from `truth`, which is known in double precision, in floors.

    A floor is how far another implementation's `single` precision is from the same truth, but at least one unit in the
    last place of the truth's scale: an implementation that happens to be exact must not set a limit of zero. NaN is
    within no limit.
    """
    truth = np.asarray(truth)
    assert truth.dtype == np.float64
    assert np.shape(found) == truth.shape == np.shape(truth if single is None else single)
    unit = UNIT * rms(truth)
    own = unit if single is None else max(unit, rms(error(np.asarray(single), truth)))
    return rms(error(np.asarray(found), truth)) / own

"""The table of graphs and runtimes as a page for people."""

from collections.abc import Mapping, Sequence

from vit2onnx.reporting.page import ENVIRONMENT
from vit2onnx.runtimes.comparing import ABSENT, EQUAL, EQUAL_TO, FAILED, NEAR, REFUSED, WRONG, Row
from vit2onnx.runtimes.register import BASELINE
from vit2onnx.runtimes.table import TITLES, grid_of

# How verdicts look; what is near has no colour.
CLASSES = {EQUAL_TO: "good", WRONG: "bad", REFUSED: "bad", FAILED: "bad", ABSENT: "soft"}


def runtimes_page(rows: Sequence[Row]) -> str:
    """The page: for each folder a table of its graphs in all runtimes, and one table with all that was measured."""
    names, by_graph = grid_of(rows)
    by_folder: dict[str, dict[str, Mapping[str, Row]]] = {}
    for graph, found in by_graph.items():
        folder, _, name = graph.rpartition("/")
        by_folder.setdefault(folder, {})[name] = found
    return ENVIRONMENT.get_template("runtimes.html.j2").render(
        title="Runtimes",
        rows=rows,
        by_folder=by_folder,
        names=[name for name in names if name != BASELINE.name],
        titles=TITLES,
        versions={row.runtime: row.version for row in rows if row.version},
        baseline=BASELINE,
        classes=CLASSES,
        equal=EQUAL,
        near=NEAR,
    )

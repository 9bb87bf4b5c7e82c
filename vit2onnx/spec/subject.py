"""What those that are compared are called, in files and on pages."""

# The double precision of the first reference, and how the names of others end in theirs.
TRUTH = "truth"
DOUBLE = "_float64"

# How a graph is run: as users run it, with all of onnxruntime's optimisations; and as it is written, so that a fault of
# the optimiser and a fault of the export are told apart. It is also computed in double precision.
GRAPH_RUNS = ("onnx", "onnx_unoptimized")
DOUBLE_GRAPH = f"{GRAPH_RUNS[0]}{DOUBLE}"

# The published features: as the other side of a comparison, and as a leg that not all weights have.
PUBLISHED = "published"

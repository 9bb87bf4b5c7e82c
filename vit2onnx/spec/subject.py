"""Names of implementations in files and on pages."""

# The first reference in double precision, and the suffix of other implementations in double precision.
TRUTH = "truth"
DOUBLE = "_float64"

# A graph is run with all of onnxruntime's optimisations, as users run it, and without any, so that a fault of the
# optimiser is told from a fault of the export. It is also computed in double precision.
GRAPH_RUNS = ("onnx", "onnx_unoptimized")
DOUBLE_GRAPH = f"{GRAPH_RUNS[0]}{DOUBLE}"

# The published features: as the other side of a comparison, and as a leg that not all weights have.
PUBLISHED = "published"

# Whole inputs of transformers, where a family has more than pixels: those of NaFlex say which patches there are.
WHOLE_INPUTS = "transformers_inputs"
# Token ids of the user's words, as transformers and the library alone make them. The library alone is shown and not
# judged: it takes a special token in capitals, put into lower case, for that token.
TRANSFORMERS_IDS, LIBRARY_IDS = "transformers_ids", "tokenizers_ids"

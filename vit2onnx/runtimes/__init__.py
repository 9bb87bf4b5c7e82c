"""Other runtimes as runners: which of them open a graph, and how near what they compute is."""

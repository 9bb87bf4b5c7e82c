"""One program per runtime, run in its own environment. These modules import numpy and their runtime only."""

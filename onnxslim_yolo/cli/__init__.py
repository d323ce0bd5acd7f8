"""The command line."""

import gc

# Modules, and then a graph, are many small objects that live to the end: looking for garbage among them is a quarter of
# the time. Said here, since importing what the command needs comes first.
gc.set_threshold(100_000, 50, 50)

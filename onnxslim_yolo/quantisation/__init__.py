"""int8: which layers, which ranges, the numbers, and the graph that says so."""

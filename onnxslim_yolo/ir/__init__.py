"""The graph, its shapes and its invariants."""

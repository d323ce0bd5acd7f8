"""Edits of a graph that several passes share."""

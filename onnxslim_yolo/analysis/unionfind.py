"""Union-find over integers, with whole arrays at a time."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.ir.graph import Array


class UnionFind:
    """Disjoint sets of labels. Label 0 is reserved for "no channel" and stays on its own."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, dtype=np.int64)
        self._size = 1

    def __len__(self) -> int:
        return self._size

    def fresh(self, count: int) -> Array:
        """`count` new labels, each its own set."""
        start, self._size = self._size, self._size + count
        if self._size > len(self._parent):
            grown = np.zeros(max(self._size, 2 * len(self._parent)), dtype=np.int64)
            grown[:start] = self._parent[:start]
            self._parent = grown
        self._parent[start : self._size] = np.arange(start, self._size)
        return np.arange(start, self._size, dtype=np.int64)

    def find(self, labels: Array) -> Array:
        """The representative of each label's set: the smallest label ever merged into it."""
        roots = self._parent[labels]
        while True:
            above = self._parent[roots]
            if (above == roots).all():
                self._parent[labels] = roots
                return np.asarray(roots)
            roots = above

    def union(self, first: Array, second: Array) -> None:
        """Merge the sets of `first[i]` and `second[i]` for every i (arrays of one shape, without label 0)."""
        # As one number each, and without what follows an equal one, pairs are told apart quickly.
        keys = (first * self._size + second)[first != second]
        if not keys.size:
            return
        changes = np.concatenate([[True], keys[1:] != keys[:-1]])
        for key in np.unique(keys[changes]).tolist():
            self._merge(*divmod(key, self._size))

    def _merge(self, a: int, b: int) -> None:
        parent = self._parent
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = int(parent[a])
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = int(parent[b])
        if a != b:
            parent[max(a, b)] = min(a, b)

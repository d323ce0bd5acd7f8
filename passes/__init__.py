"""The passes: one file, one class, one rewrite each."""

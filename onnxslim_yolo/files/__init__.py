"""Files on disk: written whole or not at all, and the formats that are read."""

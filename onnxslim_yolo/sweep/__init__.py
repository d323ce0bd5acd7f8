"""Many compilations of one model."""

"""A graph as an ncnn param/bin pair."""

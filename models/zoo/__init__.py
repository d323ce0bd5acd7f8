"""Test architectures: networks of every family, built from the blocks. Not shipped."""

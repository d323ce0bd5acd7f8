"""Times, tables and accuracy, measured."""

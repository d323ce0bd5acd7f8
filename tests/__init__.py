"""The tests. They mirror the code; `zoo` makes models for all of them."""

"""What the name of a latency table says that was not measured."""

ANALYTIC = "analytic estimate"
INSTRUCTIONS = "instruction model"

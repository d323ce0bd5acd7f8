"""What chooses: plan, ranking, calibration, widths."""

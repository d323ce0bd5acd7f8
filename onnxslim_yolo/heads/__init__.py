"""What a detector's outputs mean."""

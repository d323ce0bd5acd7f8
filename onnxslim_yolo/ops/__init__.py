"""What operators are, each told once: facts that every question about them asks for."""

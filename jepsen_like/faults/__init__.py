"""What can go wrong: one class for each fault, by name in `catalogue`."""

"""Measurements: each module is run by itself and says what it measures."""

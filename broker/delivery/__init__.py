"""How messages come to those who wait for them."""

"""How the cost of a message, of memory and of a start grows with what a group holds."""

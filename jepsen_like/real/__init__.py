"""Real node processes, each in a network and on a disk of its own that can be hurt."""

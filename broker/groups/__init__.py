"""Consumer groups: who is in one, and for how long who is silent still is."""

"""Records on their way into the log, and everything derived from them on the way out."""

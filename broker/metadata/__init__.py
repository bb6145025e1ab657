"""Replicated state that changes by commands in the log: topics, consumer offsets."""

"""The log on disk: segments, index, vote and checkpoint of one node."""

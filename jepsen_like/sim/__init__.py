"""Whole nodes in one `trio.run` under virtual time; a seed decides everything."""

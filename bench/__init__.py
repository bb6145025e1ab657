"""How fast a real group of three is: ``python -m bench``, described in docs/performance.md."""

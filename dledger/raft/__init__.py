"""The engine room: PySyncObj, guarded at its seams."""

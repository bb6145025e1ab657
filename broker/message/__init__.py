"""Messages and the records they are stored as. Pure: nothing here does I/O or reads a clock."""

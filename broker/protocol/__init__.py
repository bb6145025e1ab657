"""What requests and responses say: codes, headers and bodies. Pure: no I/O, no clock."""

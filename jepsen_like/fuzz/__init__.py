"""Bad input: every reader of bytes, given bytes that nobody should send or write."""

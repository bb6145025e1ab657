"""The replicated log and the wire it speaks; imports nothing, so that a client stays light."""

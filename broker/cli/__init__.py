"""The ``dledger`` command: start a group, look at it, send to it, read from it, check its logs."""

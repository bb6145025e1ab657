"""The ground floor: frames, commands and connections; no knowledge of logs or messages.

Imports nothing else of dledger, since ledger, broker, name server and client all stand on it.
"""

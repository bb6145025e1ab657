"""How members of a group talk: messages as frames, one FIFO stream for each pair."""

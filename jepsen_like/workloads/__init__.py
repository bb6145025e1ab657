"""What clients do meanwhile, with the project's own client library."""

"""What a node tells whoever watches it: metrics, health, and the small HTTP server for both."""

"""A message broker group on one replicated log: topics, queues, producers and consumers."""

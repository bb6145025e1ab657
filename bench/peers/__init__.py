"""Other brokers with three replicas, started beside ours and given the same loads."""

"""What a group does over slow links: reckoned on paper, and checked in simulated time."""

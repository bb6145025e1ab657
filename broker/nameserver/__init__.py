"""What a RocketMQ name server answers: routes, topics and the cluster, told by every node."""

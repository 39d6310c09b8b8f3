"""A whole swarm on one machine: processes that trade over libp2p, a live view of them, and a report."""

"""The simulated wire, and the second one that runs py-libp2p itself."""

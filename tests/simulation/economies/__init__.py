"""The teaching economies of `examples/`: each teaches what its page says, over several seeds."""

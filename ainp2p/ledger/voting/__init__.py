"""How a committee decides: vote logs, slots, views, epochs, evidence. A validator's core, without I/O."""

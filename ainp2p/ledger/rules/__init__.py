"""What is valid, and what it changes: objects, operations, state. No I/O, no votes."""

"""Models: the interface, the worker process, the engines."""

"""Scripts of the project around the library; none is installed."""

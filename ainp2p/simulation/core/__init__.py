"""Virtual time: clock, kernel, draws, trace, guards, signatures; no agents, no wire."""

"""Faults as data, tests over seeds, shrinking, replay, recorded answers."""

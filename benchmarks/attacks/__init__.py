"""Attacks on a running service. Each one is a function that returns what it demands, with the figures."""

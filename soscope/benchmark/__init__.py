"""Scores against a known truth, and the baselines they are compared with."""

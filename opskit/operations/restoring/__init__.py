"""The parts of a restore: what to fetch from where (plan), and writing it safely (target)."""

"""What `tools/benchmark.py` runs: one module for each of its targets, and what they share."""

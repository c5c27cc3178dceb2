"""What `tools/benchmark.py` runs: one module for each of its subjects, and what they share."""

"""What watches a run while it trains: one family of callbacks a file."""

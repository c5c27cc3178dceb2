"""How good the images are, a file a metric. Every figure travels with the protocol by which it was measured.

`evaluate` puts them together, `report` says what may be compared. Where the images come from is not known here.
"""

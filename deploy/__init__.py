"""Use an exported generator. Stands alone: copy this folder and an export folder to any box with its requirements."""

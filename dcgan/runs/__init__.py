"""A run on the disk: its folder, its records, its report, and how a checkpoint in it is found."""

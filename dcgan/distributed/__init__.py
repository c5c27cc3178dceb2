"""The processes of one run: who this one is, and how they exchange numbers and messages."""

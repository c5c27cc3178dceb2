"""What tools/doctor.py checks: one module for what is installed, one for decisions, one for measurements."""

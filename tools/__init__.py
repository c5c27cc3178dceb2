"""The command lines: each module parses, calls one function, and turns errors into exit codes."""

"""The command line: parsing, overrides, and how a command fails."""

"""The command line: parsing, overrides, errors and exit statuses."""

"""Which stretches of a record are learnt from, and what is lost on the way."""

"""Models at rest: run folders, Hugging Face folders, and the files they are made of."""

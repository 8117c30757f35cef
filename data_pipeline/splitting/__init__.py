"""What is held out, and what of it is found in the training split."""

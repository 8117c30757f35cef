"""What a program needs around it: errors, progress, several processes, transfers to the host."""

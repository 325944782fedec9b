"""What to run on these photographs and this machine, and what is wrong."""

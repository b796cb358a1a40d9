"""Rules about the command `tq`: what it prints, what it changes, and with which exit code it ends."""

"""What may travel: a plan before the run that fits a budget, by a rehearsal of the program on made rows."""

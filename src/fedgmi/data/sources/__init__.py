"""Data sets in memory, from files, folders, hubs and frames."""

"""From settings to results: one opening for run, fit, diagnose and compare."""

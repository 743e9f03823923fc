"""Settings: what they may be, and how they are read and written."""

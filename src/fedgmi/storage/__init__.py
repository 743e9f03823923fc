"""What lies in a results folder, and how it is written so that a crash leaves nothing half."""

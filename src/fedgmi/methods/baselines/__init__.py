"""What fedgmi stands beside: one file each."""

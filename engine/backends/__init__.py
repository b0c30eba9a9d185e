"""What answers requests, a file each."""

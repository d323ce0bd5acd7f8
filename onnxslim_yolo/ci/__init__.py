"""One compilation as a job."""

"""Search the log lines of the service, in the journal of a host or in a file."""

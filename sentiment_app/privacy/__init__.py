"""Personal data: export everything that belongs to an account, and erase it."""

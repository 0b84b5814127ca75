"""Registration, sign-in and tokens."""

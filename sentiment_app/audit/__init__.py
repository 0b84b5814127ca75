"""The audit log: who did what to which account, key, session or model."""

"""Checks an application against its taxonomy, without running it: what ``tenantry check`` does."""

"""Fewer nodes, all of them standard: what constants decide, what is twice, unchanged or unread goes."""

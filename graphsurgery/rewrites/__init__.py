"""Rewrites: the same meaning from less or cheaper work."""

"""The edits: one file, one verb, one folder of golden cases each."""

"""The references of the edits, one file each: in numpy and float64, written from the definitions."""

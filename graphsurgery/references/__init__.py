"""One file per edit: its reference in numpy and float64, written from the definition, and what it promises."""

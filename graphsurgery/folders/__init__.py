"""Reading other people's model folders."""

"""``python -m graphsurgery``."""

from graphsurgery.cli.main import main

if __name__ == "__main__":
    main()

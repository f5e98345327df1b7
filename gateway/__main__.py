"""``python -m gateway`` is ``wearsight-gateway``."""

from gateway.cli import main

if __name__ == "__main__":
    main()

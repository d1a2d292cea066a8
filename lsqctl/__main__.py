"""Run the command line as ``python -m lsqctl``."""

from lsqctl.cli import main

if __name__ == "__main__":
    main()

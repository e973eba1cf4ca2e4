"""`python -m soscope` is `soscope`."""

from soscope.cli import main

if __name__ == "__main__":
    main()

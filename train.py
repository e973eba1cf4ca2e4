"""`python train.py ...` is `soscope train ...` in a checkout."""

from soscope.cli import main

if __name__ == "__main__":
    main()

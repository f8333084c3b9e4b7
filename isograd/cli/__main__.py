"""`python -m isograd.cli`."""

from isograd.cli.entry import main

if __name__ == "__main__":
    main()

"""`python -m imglish`."""

from imglish.cli import main

if __name__ == "__main__":
    main()

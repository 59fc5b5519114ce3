"""`python -m lada_al` is the command `lada`."""

from lada_al.cli import main

if __name__ == "__main__":
    main()

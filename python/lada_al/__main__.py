"""The command `lada`, also `python -m lada_al`; one line where the ops were installed without what the loop needs."""

import sys


def main() -> None:
    try:
        from lada_al.cli import main as command
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("lada_al", "lada_ext"):
            raise
        sys.exit(f"lada: {error.name} is not installed; `pip install 'lada-ext[al]'` installs what the command needs")
    command()


if __name__ == "__main__":
    main()

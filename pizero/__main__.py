"""`python -m pizero` is the command line; torchrun starts it so."""

from pizero.cli.main import main

if __name__ == "__main__":
    main()

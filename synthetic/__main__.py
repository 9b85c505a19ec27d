"""`python -m synthetic`: make the embedded database (`synthetic.database`)."""

import sys

from common.errors import InputError
from synthetic.database import main

if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"synthetic: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what is finished is kept: run the same command again to go on")

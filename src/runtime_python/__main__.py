"""Entry point: `python3 -I <this directory>`."""

import sys

from plc.runtime import main

if __name__ == "__main__":
    # What functions import shall not be looked for beside the runtime.
    del sys.path[0]
    main()

"""``python -m kinet_trt`` is ``kinet-trt``."""

from kinet_trt.cli.main import main

if __name__ == "__main__":
    main()

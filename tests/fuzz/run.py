"""One target under atheris: `python -m tests.fuzz.run NAME [options of libFuzzer] [directories of inputs]`.

The modules under test are instrumented as they are imported, so that an input which reaches something new is kept.
"""

import sys

import atheris

with atheris.instrument_imports(include=["agent", "mesh", "controlplane"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Lists the commands for datasets or runs one: python -m data_pipeline build …"""

from data_pipeline import cli

VERBS = {
    "build": ("data_pipeline.build", "builds a dataset of annotated genomes"),
    "inspect": ("data_pipeline.inspect", "shows the contents of a dataset"),
    "train_bpe": ("data_pipeline.train_bpe", "trains a byte-pair vocabulary on a dataset"),
}


def main() -> None:
    """Runs the command line `python -m data_pipeline`."""
    cli.call(VERBS)


if __name__ == "__main__":
    main()

"""Lists the commands that build and read datasets, or runs one: python -m data_pipeline build …"""

from data_pipeline import cli

VERBS = {
    "build": ("data_pipeline.build", "builds a dataset from annotated genomes"),
    "inspect": ("data_pipeline.inspect", "shows the content of a dataset"),
    "train_bpe": ("data_pipeline.train_bpe", "trains a byte-pair vocabulary on a dataset"),
}


def main() -> None:
    """Runs the command."""
    cli.call(VERBS)


if __name__ == "__main__":
    main()

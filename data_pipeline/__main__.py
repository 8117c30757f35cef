"""Lists the commands that make and read datasets, or calls one: python -m data_pipeline build …"""

from data_pipeline import cli

VERBS = {
    "build": ("data_pipeline.build", "makes a dataset of annotated genomes"),
    "inspect": ("data_pipeline.inspect", "shows what a dataset holds"),
    "train_bpe": ("data_pipeline.train_bpe", "trains a byte-pair vocabulary on a dataset"),
}


def main() -> None:
    """The command."""
    cli.call(VERBS)


if __name__ == "__main__":
    main()

"""Fine-tuning on labelled sequences."""

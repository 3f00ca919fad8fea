"""Makes BERTs: from raw text to a vocabulary, a pre-trained encoder and a fine-tuned model."""

__version__ = "0.1.0"
